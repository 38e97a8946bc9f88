"""Write text for a language model of digits and commands: random strings, each word equally likely, no list read.

Strings have 13 to 20 words. Those of the bundled model's lists have 3 to 12, so that none of them can be in the text;
--lists counts them all the same and prints the overlap.

    python recipes/decoding/make_word_loop.py --output loop.txt --lists recipes/bundled/*.jsonl
    sewkit lm build loop.txt -o loop.arpa --order 3
    sewkit evaluate recipes/bundled/test-*.jsonl --data-root data --lm loop.arpa
"""

import argparse
import json
import random
from pathlib import Path

WORDS = (
    ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"],
    ["YES", "NO", "UP", "DOWN", "LEFT", "RIGHT", "ON", "OFF", "STOP", "GO"],
)
NUM_WORDS = (13, 20)


def main() -> None:
    """Write the text, print the overlap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--strings", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lists", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    strings = [" ".join(draw.choices(draw.choice(WORDS), k=draw.randint(*NUM_WORDS))) for _ in range(arguments.strings)]
    arguments.output.write_text("\n".join(strings) + "\n")
    for path in arguments.lists:
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        shared = set(texts).intersection(strings)
        print(f"{path.name}: {len(shared)} of {len(texts)} strings are in the text")


if __name__ == "__main__":
    main()
