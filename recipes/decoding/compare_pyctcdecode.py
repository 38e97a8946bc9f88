"""Our beam search beside pyctcdecode: same logits, same ARPA file, same width, weights 0.5 and 1.5, one thread.

pyctcdecode needs an environment of its own with its old numpy; the script runs in both. Times are CPU seconds of
decoding alone, as a share of the sound. `simulate` writes logits as a model of 32 letters with many errors would give
them for the texts of lists: a quarter of the letters are doubtful, one in twenty is faint.

    python -m venv old && old/bin/pip install 'numpy<2' pyctcdecode kenlm
    python recipes/decoding/compare_pyctcdecode.py logits recipes/bundled/test-*.jsonl --data-root data --file test.npz
    python recipes/decoding/compare_pyctcdecode.py sewkit --file test.npz --lm loop.arpa --width 100
    old/bin/python recipes/decoding/compare_pyctcdecode.py pyctcdecode --file test.npz --lm loop.arpa --width 100

    python recipes/decoding/compare_pyctcdecode.py simulate LISTS --split test --limit 60 --file simulated.npz
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sewkit.text import Alphabet

ALPHA, BETA = 0.5, 1.5
FRAMES_A_SECOND = 50


def save_logits(arguments: argparse.Namespace) -> None:
    """Run the model once over the lists; logits, texts and tokens go to one file."""
    import sewkit
    from sewkit.data.manifest import load_utterance, read_manifest

    asr = sewkit.load(arguments.model, threads=1)
    arrays, texts = {}, {}
    for path in arguments.lists:
        rows = read_manifest(path, arguments.split, arguments.data_root)[: arguments.limit]
        texts[path.stem] = [row.text for row in rows]
        for number, row in enumerate(rows):
            arrays[f"{path.stem}/{number:05d}"] = asr.logits([load_utterance(row)])[0]
    store(arguments.file, asr.loaded.alphabet, texts, arrays)


def store(file: Path, alphabet: "Alphabet", texts: dict[str, list[str]], arrays: dict[str, np.ndarray]) -> None:
    """Logits with all that both decoders need of the alphabet."""
    about = {"texts": texts, "tokens": alphabet.tokens, "blank": alphabet.blank, "gap": alphabet.delimiter}
    np.savez(file, about=np.array(json.dumps(about)), **arrays)


def simulate_logits(arguments: argparse.Namespace) -> None:
    """Logits of no model, for the texts of the lists."""
    from sewkit.data.manifest import read_manifest
    from sewkit.text import Alphabet

    alphabet, generator = Alphabet.english(), np.random.default_rng(0)
    arrays, texts = {}, {}
    for path in arguments.lists:
        texts[path.stem] = [row.text for row in read_manifest(path, arguments.split)[: arguments.limit]]
        for number, text in enumerate(texts[path.stem]):
            arrays[f"{path.stem}/{number:05d}"] = simulated(text, alphabet, generator)
    store(arguments.file, alphabet, texts, arrays)


def simulated(text: str, alphabet: "Alphabet", generator: np.random.Generator) -> np.ndarray:
    """(T, V) logits: each letter has its frame, often with fainter ones beside it, and silence around."""
    letters = sorted(alphabet.ids.values())
    frames: list[dict[int, float]] = []
    for letter in alphabet.encode(text):
        frames += [{alphabet.blank: 1.0}] * generator.poisson(1.6)
        other = int(generator.choice(letters))
        right = generator.beta(1.2, 1.0) if generator.random() < 0.25 else generator.beta(6, 1)
        silent = generator.beta(3, 1) if generator.random() < 0.05 else generator.beta(1, 12)
        shares = ((0.4, 0.6), (1 - silent, silent), (0.7, 0.3))
        for share, blank in (shares[place] for place in (0, 1, 2) if place == 1 or generator.random() < 0.3):
            frames.append({other: (1 - right) * share, letter: right * share, alphabet.blank: blank})
    frames += [{alphabet.blank: 1.0}] * 6
    logits = generator.normal(-12.0, 1.2, (len(frames), len(alphabet))).astype(np.float32)
    for row, frame in zip(logits, frames, strict=True):
        row[list(frame)] = np.log(np.maximum(list(frame.values()), 1e-6))
    return logits


def sewkit_decoder(about: dict, lm: str, width: int) -> Callable[[np.ndarray], str]:
    """Ours; as in pyctcdecode the words' times are found too."""
    from sewkit.decode import BeamSearch, FusionWeights, Pruning
    from sewkit.text import Alphabet

    marks = frozenset(index for index, token in enumerate(about["tokens"]) if token in ("<s>", "</s>", "<unk>"))
    alphabet = Alphabet(tuple(about["tokens"]), about["blank"], about["gap"], marks)
    search = BeamSearch(alphabet, lm=lm, weights=FusionWeights(ALPHA, BETA), pruning=Pruning(width))
    return lambda logits: search.decode(logits)[0].text


def pyctcdecode_decoder(about: dict, lm: str, width: int) -> Callable[[np.ndarray], str]:
    """Theirs, with the unigrams of the ARPA file as its word list, as its authors advise."""
    from pyctcdecode import build_ctcdecoder

    labels = [" " if token == about["gap"] else token for token in about["tokens"]]
    labels[about["blank"]] = ""
    text = Path(lm).read_text().split("\\1-grams:\n")[1].split("\n\n")[0]
    words = [line.split("\t")[1] for line in text.splitlines()]
    known = [word for word in words if word not in ("<s>", "</s>", "<unk>")]
    decoder = build_ctcdecoder(labels, kenlm_model_path=lm, unigrams=known, alpha=ALPHA, beta=BETA)
    return lambda logits: decoder.decode(logits, beam_width=width)


def word_errors(reference: list[str], found: list[str]) -> int:
    """Edit distance in words, so that both environments count alike."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(reference, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(found, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


def measure(arguments: argparse.Namespace) -> None:
    """Decode every list and print its word error rate and real-time factor."""
    make = {"sewkit": sewkit_decoder, "pyctcdecode": pyctcdecode_decoder}[arguments.what]
    with np.load(arguments.file) as stored:
        about = json.loads(str(stored["about"]))
        arrays = {name: stored[name] for name in stored.files if name != "about"}
    decode = make(about, str(arguments.lm), arguments.width)
    for name, texts in about["texts"].items():
        pieces = [arrays[f"{name}/{number:05d}"] for number in range(len(texts))]
        decode(pieces[0])
        begun = time.process_time()
        found = [decode(piece) for piece in pieces]
        seconds = time.process_time() - begun
        errors = sum(word_errors(one.split(), other.split()) for one, other in zip(texts, found, strict=True))
        rate = errors / sum(len(text.split()) for text in texts)
        factor = seconds * FRAMES_A_SECOND / sum(map(len, pieces))
        print(f"{arguments.what} {name}: WER {rate:.2%}, real-time factor {factor:.5f}, width {arguments.width}")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["logits", "simulate", "sewkit", "pyctcdecode"])
    parser.add_argument("lists", type=Path, nargs="*")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--split", help="of the lists; default: all")
    parser.add_argument("--limit", type=int, help="so many utterances of each list")
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--width", type=int, default=100)
    arguments = parser.parse_args()
    {"logits": save_logits, "simulate": simulate_logits}.get(arguments.what, measure)(arguments)


if __name__ == "__main__":
    main()
