"""Word error rates of a model on the evaluation lists, with bootstrap intervals over strings.

    python recipes/bundled/evaluate.py --model sew-words --data-root data

The strings are joined from isolated recordings of speakers that are in no training set (see make_lists.py).
"""

import argparse
from pathlib import Path

import sewkit
from sewkit.data.manifest import load_utterance, read_manifest
from sewkit.evaluate.wer import WordErrorRate, wer_with_interval

FOLDER = Path(__file__).parent
LISTS = {
    "fsdd-digits": "speech/fsdd-digits",
    "commands-digits": "speech/speech-commands-excerpt",
    "commands-words": "speech/speech-commands-excerpt",
}


def evaluate(asr: sewkit.Recognizer, path: Path, root: Path, show_errors: bool = False) -> WordErrorRate:
    """One list."""
    rows = read_manifest(path, root=root)
    hypotheses = [asr.transcribe(load_utterance(row)).text for row in rows]
    if show_errors:
        for row, hypothesis in zip(rows, hypotheses, strict=True):
            if row.text != hypothesis:
                print(f"  said  {row.text}\n  heard {hypothesis}")
    return wer_with_interval([row.text for row in rows], hypotheses)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--show-errors", action="store_true")
    arguments = parser.parse_args()
    asr = sewkit.load(arguments.model)
    for name, root in LISTS.items():
        path = FOLDER / f"{arguments.split}-{name}.jsonl"
        print(f"{path.name}: {evaluate(asr, path, arguments.data_root / root, arguments.show_errors)}", flush=True)


if __name__ == "__main__":
    main()
