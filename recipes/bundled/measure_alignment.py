"""Measure forced alignment on strings whose word edges are known, because they are joined from trimmed recordings.

Each recording of unseen speakers is cut to its sound by energy and used once; a string has 3 to 12 of them with 0 to
0.5 s of digital silence before each. A table has a row a list and operating point: errors of word edges in ms, snapped
to the sound and by the letters only, signed at the 5th, 50th and 95th percentile for starts and ends; and, with a word
that is not spoken put into each text, the area under ROC of telling it by its score from those that are, and which
shares of both a threshold would call missing.

    python recipes/bundled/measure_alignment.py --data-root data
    python recipes/bundled/measure_alignment.py --model MODEL --compute squeeze=1 squeeze=2 squeeze=4 --output table.md

The truth here is energy, and snapping uses energy: --truth-db, the loudness below a recording's loudest moment at which
it is cut, shows how much hangs on that.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_lists import LISTS, PAUSE_SECONDS, cut

import sewkit
from sewkit.audio import SAMPLE_RATE
from sewkit.data.augment import add_noise, coloured_noise, sound_span
from sewkit.data.manifest import Utterance, load_utterance, read_manifest

SCORES = (-1.0, -1.5, -2.0, -2.5, -3.0, -4.0)


@dataclass(frozen=True)
class JoinedString:
    """A waveform, its words, and (words, 2) edges in seconds."""

    samples: np.ndarray
    words: list[str]
    edges: np.ndarray


def join(clips: list[Utterance], truth_db: float, generator: np.random.Generator) -> JoinedString:
    """Trimmed clips one after the other."""
    pieces: list[np.ndarray] = []
    edges: list[tuple[int, int]] = []
    time = 0
    for clip in clips:
        samples = load_utterance(clip)
        first, end = sound_span(samples, truth_db)
        pause = int(generator.uniform(*PAUSE_SECONDS) * SAMPLE_RATE)
        edges.append((time + pause, time + pause + end - first))
        pieces += [np.zeros(pause, np.float32), samples[first:end]]
        time = edges[-1][1]
    pieces.append(np.zeros(SAMPLE_RATE // 4, np.float32))
    return JoinedString(np.concatenate(pieces), [clip.text for clip in clips], np.array(edges) / SAMPLE_RATE)


def strings(clips: list[Utterance], truth_db: float, generator: np.random.Generator) -> Iterator[JoinedString]:
    """All clips, each once."""
    shuffled = [clips[index] for index in generator.permutation(len(clips))]
    for size in cut(len(clips), generator):
        yield join(shuffled[:size], truth_db, generator)
        shuffled = shuffled[size:]


def with_wrong_word(words: list[str], vocabulary: list[str], generator: np.random.Generator) -> tuple[list[str], int]:
    """The words with one more, unlike its neighbours, and its place."""
    place = int(generator.integers(len(words) + 1))
    neighbours = words[max(place - 1, 0) : place + 1]
    wrong = str(generator.choice([word for word in vocabulary if word not in neighbours]))
    return [*words[:place], wrong, *words[place:]], place


def edge_errors(asr: sewkit.Recognizer, joined: list[JoinedString], snap: bool, compute: sewkit.Compute) -> np.ndarray:
    """(words, 2) seconds too late at starts and ends."""
    pairs = [(string.samples, " ".join(string.words)) for string in joined]
    found = asr.align_batch(pairs, snap=snap, compute=compute)
    errors = [
        np.array([(word.start, word.end) for word in alignment.words]) - string.edges
        for alignment, string in zip(found, joined, strict=True)
    ]
    return np.concatenate(errors)


def edge_cells(errors: np.ndarray) -> list[str]:
    """Median and 90th percentile of all edges' errors; 5th, 50th and 95th of signed ones, of starts and of ends."""
    cells = [f"{value:.0f}" for value in np.percentile(np.abs(errors), [50, 90]) * 1000]
    return [
        *cells,
        *(" ".join(f"{value:+.0f}" for value in np.percentile(side, [5, 50, 95]) * 1000) for side in errors.T),
    ]


def missing_cells(
    asr: sewkit.Recognizer, joined: list[JoinedString], compute: sewkit.Compute, generator: np.random.Generator
) -> list[str]:
    """How scores tell words that are not spoken from those that are: area under ROC, caught and accused at SCORES."""
    vocabulary = sorted({word for string in joined for word in string.words})
    texts = [with_wrong_word(string.words, vocabulary, generator) for string in joined]
    pairs = [(string.samples, " ".join(words)) for string, (words, _) in zip(joined, texts, strict=True)]
    right, wrong = [], []
    for alignment, (_, place) in zip(asr.align_batch(pairs, compute=compute), texts, strict=True):
        for index, word in enumerate(alignment.words):
            (wrong if index == place else right).append(word.score)
    spoken, unspoken = np.array(right), np.array(wrong)
    area = (spoken[:, None] > unspoken).mean() + (spoken[:, None] == unspoken).mean() / 2
    shares = [f"{(unspoken < score).mean():.0%} {(spoken < score).mean():.0%}" for score in SCORES]
    return [f"{area:.3f}", *shares]


def read_strings(arguments: argparse.Namespace, folder: str, intent: str) -> list[JoinedString]:
    """The strings of one list, with noise if it is asked for; the same ones at every operating point."""
    generator = np.random.default_rng(arguments.seed)
    rows = read_manifest(arguments.data_root / folder / "manifest.jsonl", arguments.split)
    joined = list(strings([row for row in rows if row.extra["intent"] == intent], arguments.truth_db, generator))
    if arguments.noise_db is not None:
        for string in joined:
            noise = coloured_noise(string.samples.size, 1.0, generator)
            string.samples[:] = add_noise(string.samples, noise, arguments.noise_db)
    return joined


def row(asr: sewkit.Recognizer, name: str, joined: list[JoinedString], compute: sewkit.Compute, seed: int) -> list[str]:
    """What was measured of one list at one operating point."""
    edges = [cell for snap in (True, False) for cell in edge_cells(edge_errors(asr, joined, snap, compute))]
    words = sum(len(string.words) for string in joined)
    return [name, str(compute), str(words), *edges, *missing_cells(asr, joined, compute, np.random.default_rng(seed))]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--compute", nargs="+", default=["full"], help="operating points, such as squeeze=1 squeeze=4")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--truth-db", type=float, default=30.0)
    parser.add_argument("--noise-db", type=float, help="signal-to-noise ratio of pink noise that is added")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    arguments = parser.parse_args()
    asr = sewkit.load(arguments.model)
    points = [asr.resolve(text) for text in arguments.compute]
    edges = ["median", "90 %", "starts", "ends"]
    header = ["list", "compute", "words", *edges, *(f"letters: {name}" for name in edges), "ROC"]
    header += [f"below {score}" for score in SCORES]
    lines = [header, ["---"] * len(header)]
    for name, folder, intent in LISTS:
        joined = read_strings(arguments, folder, intent)
        for compute in points:
            lines.append(row(asr, name, joined, compute, arguments.seed))
            print(f"{name} at {compute}: median {lines[-1][3]} ms, 90 % within {lines[-1][4]} ms", file=sys.stderr)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    if arguments.output:
        arguments.output.write_text(table + "\n")


if __name__ == "__main__":
    main()
