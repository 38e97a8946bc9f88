"""Word error rates on read sentences: greedy, with a language model, with a language model and hotwords.

The language model's text is the transcripts of training recordings, without any sentence that a dev or test recording
says; the overlap is printed. Its weights are tuned on the list's dev split, and so is the weight of the hotwords, which
are the words of the training text that the search with the language model loses most often there. Intervals are
bootstrapped over speakers where there are enough of them.

    python recipes/decoding/measure_sentences.py runs/small/letters/model --data-root data --output sentences
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import sewkit
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.decode import BeamSearch, Decoder, GreedySearch, Pruning
from sewkit.decode.lm import build_arpa, write_arpa
from sewkit.evaluate.bootstrap import Clusters
from sewkit.evaluate.tuning import tune_lm
from sewkit.evaluate.wer import ErrorRate, rate_of, word_errors

LISTS = ("speechocean762", "librispeech-test-clean")
TEXTS = (*LISTS, "librispeech-excerpt", "ljspeech-excerpt", "vctk-excerpt")
"""Sets whose training transcripts are the language model's text."""
NUM_HOTWORDS, SHORTEST_HOTWORD = 30, 4
HOTWORD_WEIGHTS = (0.5, 1.0, 2.0, 4.0)


def rows(root: Path, name: str, split: str) -> list[Utterance]:
    """One split of a set."""
    return read_manifest(root / "speech" / name / "manifest.jsonl", split)


def training_text(root: Path) -> list[str]:
    """Distinct training sentences that no dev or test recording of the lists says; prints the overlap."""
    text = sorted({row.text for name in TEXTS for row in rows(root, name, "train")})
    held_out = {row.text for name in LISTS for split in ("dev", "test") for row in rows(root, name, split)}
    kept = [sentence for sentence in text if sentence not in held_out]
    known = {word for sentence in kept for word in sentence.split()}
    print(
        f"text: {len(kept)} sentences, {len(known)} words; {len(text) - len(kept)} that dev or test say were left out"
    )
    for name in LISTS:
        test = rows(root, name, "test")
        words = [word for row in test for word in row.text.split()]
        shared = sum(row.text in set(kept) for row in test)
        unknown = sum(word not in known for word in words) / len(words)
        print(f"{name}: {shared} of {len(test)} test sentences are in the text, {unknown:.1%} of the words are not")
    return kept


def transcribed(asr: sewkit.Recognizer, utterances: Sequence[Utterance], decoder: Decoder) -> list[str]:
    """Texts of all utterances."""
    return [found.text for found in asr.transcribe_batch(map(load_utterance, utterances), decoder=decoder)]


def lost_words(dev: Sequence[Utterance], found: Sequence[str], text: Sequence[str]) -> list[str]:
    """Words of the training text that transcripts of the dev split lack most often."""
    known = {word for sentence in text for word in sentence.split() if len(word) >= SHORTEST_HOTWORD}
    lost: Counter[str] = Counter()
    for row, transcript in zip(dev, found, strict=True):
        lost += Counter(word for word in row.text.split() if word in known) - Counter(transcript.split())
    return [word for word, _ in sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:NUM_HOTWORDS]]


def with_hotwords(asr: sewkit.Recognizer, search: BeamSearch, dev: Sequence[Utterance], text: list[str]) -> BeamSearch:
    """The search with the hotwords and the one weight that do best on the dev split."""
    hotwords = lost_words(dev, transcribed(asr, dev, search), text)
    searches = [
        asr.beam_search(
            search.lm, weights=search.weights, hotwords=dict.fromkeys(hotwords, weight), pruning=search.pruning
        )
        for weight in HOTWORD_WEIGHTS
    ]
    references = [row.text for row in dev]
    rates = [rate_of(word_errors(references, transcribed(asr, dev, one))) for one in searches]
    best = min(range(len(searches)), key=rates.__getitem__)
    print(f"hotwords at {HOTWORD_WEIGHTS[best]:g}: {' '.join(hotwords)}")
    return searches[best]


def measure(asr: sewkit.Recognizer, root: Path, name: str, lm: Path, text: list[str], beam: int) -> list[list[str]]:
    """Rows of the table for one list."""
    dev, test = rows(root, name, "dev"), rows(root, name, "test")
    search = asr.beam_search(lm, pruning=Pruning(beam))
    search = search.with_weights(tune_lm(asr, search, dev).weights)
    print(f"{name}: alpha {search.weights.alpha:g}, beta {search.weights.beta:g}")
    decoders = {
        "greedy": GreedySearch(),
        "LM": search,
        "LM and hotwords": with_hotwords(asr, search, dev, text),
    }
    references, clusters = [row.text for row in test], Clusters.choose([row.speaker for row in test])
    table = []
    for decoding, decoder in decoders.items():
        rate = ErrorRate.of(word_errors(references, transcribed(asr, test, decoder)), clusters, "word")
        print(f"{name}, {decoding}: {rate}", flush=True)
        table.append([name, decoding, f"{rate.rate:.1%}", f"[{rate.low:.1%}, {rate.high:.1%}]", str(rate.num_units)])
    return table


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--lists", nargs="+", choices=LISTS, default=LISTS)
    parser.add_argument("--order", type=int, default=4)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True, help="folder for the text, the model and the table")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = training_text(arguments.data_root)
    (arguments.output / "text.txt").write_text("\n".join(text) + "\n")
    lm = arguments.output / "lm.arpa"
    write_arpa(lm, build_arpa(text, arguments.order))
    asr = sewkit.load(arguments.model)
    table = [["list", "decoding", "WER", "95 % interval", "words"], ["---"] * 5]
    for name in arguments.lists:
        table += measure(asr, arguments.data_root, name, lm, text, arguments.beam)
    (arguments.output / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in table))
    (arguments.output / "arguments.json").write_text(json.dumps(vars(arguments), default=str) + "\n")


if __name__ == "__main__":
    main()
