"""Write the evaluation lists of the bundled model: strings joined from isolated recordings of unseen speakers.

Every recording of a set is used exactly once. Whole clips are joined, NOT trimmed, with 0 to 0.5 s of digital silence
between them; a string has 3 to 12 words. A string of `fsdd-digits` has one speaker (the set has one a split), one of
`speech-commands-excerpt` mixes speakers. Paths are relative to the data root, which the reader must have.

    python recipes/bundled/make_lists.py --data-root data --output recipes/bundled
"""

import argparse
import json
from pathlib import Path

import numpy as np

from sewkit.data.manifest import Utterance, joined_row, read_manifest

LISTS = [
    ("fsdd-digits", "speech/fsdd-digits", "digit"),
    ("commands-digits", "speech/speech-commands-excerpt", "digit"),
    ("commands-words", "speech/speech-commands-excerpt", "command"),
]
NUM_WORDS = (3, 12)
PAUSE_SECONDS = (0.0, 0.5)


def cut(num_clips: int, generator: np.random.Generator) -> list[int]:
    """Sizes of strings that use all clips: random, and the last ones adjusted so that none is too short."""
    sizes: list[int] = []
    while (left := num_clips - sum(sizes)) > NUM_WORDS[1]:
        sizes.append(int(generator.integers(NUM_WORDS[0], min(NUM_WORDS[1], left - NUM_WORDS[0]) + 1)))
    return [*sizes, num_clips - sum(sizes)]


def join(clips: list[Utterance], root: Path, generator: np.random.Generator) -> dict:
    """One row from the clips of a string, in order."""
    pauses = [0.0, *generator.uniform(*PAUSE_SECONDS, size=len(clips) - 1).round(3).tolist()]
    parts = [
        (clip.parts[0].audio.relative_to(root).as_posix(), pause) for clip, pause in zip(clips, pauses, strict=True)
    ]
    return joined_row(
        parts,
        text=" ".join(clip.text for clip in clips),
        speaker="+".join(dict.fromkeys(clip.speaker for clip in clips)),
        duration=round(sum(clip.duration for clip in clips) + sum(pauses), 4),
        split=clips[0].split,
    )


def make_list(root: Path, folder: str, split: str, intent: str, seed: int) -> list[dict]:
    """All rows of one list."""
    rows_of_set = read_manifest(root / folder / "manifest.jsonl", split)
    clips = [row for row in rows_of_set if row.extra["intent"] == intent]
    generator = np.random.default_rng(seed)
    shuffled = [clips[index] for index in generator.permutation(len(clips))]
    rows = []
    for size in cut(len(clips), generator):
        rows.append(join(shuffled[:size], root, generator))
        shuffled = shuffled[size:]
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path("recipes/bundled"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, folder, intent in LISTS:
        for split in ("dev", "test"):
            rows = make_list(arguments.data_root, folder, split, intent, arguments.seed)
            path = arguments.output / f"{split}-{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"{path}: {len(rows)} strings, {sum(len(row['parts']) for row in rows)} clips")


if __name__ == "__main__":
    main()
