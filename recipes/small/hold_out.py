"""Hold out every n-th utterance of each speaker of a manifest's split, so that speakers can be recognised again.

python recipes/small/hold_out.py data/speech/librispeech-test-clean/manifest.jsonl --output data/speakers.jsonl

The new manifest has the rows of that split only, in their order; those held out are in the split `held-out`, the others
in `train`. Audio stays where it is.
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path


def main() -> None:
    """Write the new manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=5)
    options = parser.parse_args()
    folder = os.path.relpath(options.manifest.parent, options.output.parent)
    seen: Counter[str] = Counter()
    lines = []
    for line in options.manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] != options.split:
            continue
        seen[row["speaker"]] += 1
        split = "train" if seen[row["speaker"]] % options.every else "held-out"
        lines.append(json.dumps({**row, "audio": os.path.join(folder, row["audio"]), "split": split}))
    options.output.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
