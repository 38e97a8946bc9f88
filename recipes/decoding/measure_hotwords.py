"""Word error rates greedily, with a language model, with a language model and hotwords.

The language model is of a text without any sentence that a dev or test recording says; the overlap is printed, and such
sentences are left out. Its weights are tuned on the dev list, and so is the weight of the hotwords, which are the words
of the text that the search with the language model loses most often there. Lists go in pairs, dev and test. Intervals
are bootstrapped over speakers where there are enough of them.

    python recipes/decoding/make_word_loop.py --output loop.txt --lists recipes/bundled/*.jsonl
    python recipes/decoding/measure_hotwords.py sew-words --text loop.txt --order 3 --data-root data \
        --pair recipes/bundled/dev-commands-words.jsonl recipes/bundled/test-commands-words.jsonl --output hotwords.md
"""

import argparse
import tempfile
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
from sewkit.files import replacing

SHORTEST_HOTWORD = 2
HOTWORD_WEIGHTS = (0.5, 1.0, 2.0, 4.0)
Pair = tuple[list[Utterance], list[Utterance]]


def text_without(sentences: Sequence[str], pairs: dict[str, Pair]) -> list[str]:
    """The sentences that no dev or test recording says; prints the overlap."""
    said = {row.text for dev, test in pairs.values() for row in (*dev, *test)}
    kept = [sentence for sentence in sentences if sentence not in said]
    print(f"text: {len(kept)} sentences; {len(sentences) - len(kept)} that dev or test say were left out")
    words = {word for sentence in kept for word in sentence.split()}
    for name, (_, test) in pairs.items():
        spoken = [word for row in test for word in row.text.split()]
        unknown = sum(word not in words for word in spoken) / len(spoken)
        print(f"{name}: 0 of {len(test)} test sentences are in the text, {unknown:.1%} of the words are not")
    return kept


def transcribed(asr: sewkit.Recognizer, rows: Sequence[Utterance], decoder: Decoder) -> list[str]:
    """What a decoder makes of each."""
    return [found.text for found in asr.transcribe_batch(map(load_utterance, rows), decoder=decoder)]


def lost_words(dev: Sequence[Utterance], found: Sequence[str], text: Sequence[str], count: int) -> list[str]:
    """Words of the text that transcripts of the dev list lack most often."""
    known = {word for sentence in text for word in sentence.split() if len(word) >= SHORTEST_HOTWORD}
    lost: Counter[str] = Counter()
    for row, transcript in zip(dev, found, strict=True):
        lost += Counter(word for word in row.text.split() if word in known) - Counter(transcript.split())
    return [word for word, _ in sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:count]]


def with_hotwords(asr: sewkit.Recognizer, search: BeamSearch, dev: Sequence[Utterance], words: list[str]) -> BeamSearch:
    """The search with the hotwords at the one weight that does best on the dev list."""
    searches = [
        asr.beam_search(
            search.lm, weights=search.weights, hotwords=dict.fromkeys(words, weight), pruning=search.pruning
        )
        for weight in HOTWORD_WEIGHTS
    ]
    references = [row.text for row in dev]
    rates = [rate_of(word_errors(references, transcribed(asr, dev, one))) for one in searches]
    best = min(range(len(searches)), key=rates.__getitem__)
    print(f"hotwords at {HOTWORD_WEIGHTS[best]:g}: {' '.join(words)}")
    return searches[best]


def measure(
    asr: sewkit.Recognizer, name: str, pair: Pair, lm: Path, text: list[str], options: argparse.Namespace
) -> list[list[str]]:
    """Rows of the table for one pair of lists."""
    dev, test = pair
    search = asr.beam_search(lm, pruning=Pruning(options.beam))
    search = search.with_weights(tune_lm(asr, search, dev).weights)
    print(f"{name}: alpha {search.weights.alpha:g}, beta {search.weights.beta:g}")
    words = lost_words(dev, transcribed(asr, dev, search), text, options.hotwords)
    decoders = {
        "greedy": GreedySearch(),
        "LM": search,
        "LM and hotwords": with_hotwords(asr, search, dev, words),
    }
    references, clusters = [row.text for row in test], Clusters.choose([row.speaker for row in test])
    table = []
    for decoding, decoder in decoders.items():
        rate = ErrorRate.of(word_errors(references, transcribed(asr, test, decoder)), clusters, "word")
        print(f"{name}, {decoding}: {rate}", flush=True)
        table.append([name, decoding, f"{rate.rate:.1%}", f"{rate.low:.1%} to {rate.high:.1%}", str(rate.num_units)])
    return table


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True, help="a sentence a line")
    parser.add_argument("--pair", nargs=2, type=Path, action="append", required=True, metavar=("DEV", "TEST"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--order", type=int, default=4)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--hotwords", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True, help="file for the table")
    options = parser.parse_args()
    pairs: dict[str, Pair] = {
        test.stem: (read_manifest(dev, root=options.data_root), read_manifest(test, root=options.data_root))
        for dev, test in options.pair
    }
    text = text_without(options.text.read_text(encoding="utf-8").splitlines(), pairs)
    table = [["list", "decoding", "WER", "95 % interval", "words"], ["---"] * 5]
    with tempfile.TemporaryDirectory() as folder:
        lm = Path(folder) / "lm.arpa"
        write_arpa(lm, build_arpa(text, options.order))
        asr = sewkit.load(options.model)
        for name, pair in pairs.items():
            table += measure(asr, name, pair, lm, text, options)
    with replacing(options.output) as draft:
        draft.write_text("".join(f"| {' | '.join(line)} |\n" for line in table), encoding="utf-8")


if __name__ == "__main__":
    main()
