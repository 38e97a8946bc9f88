"""Which rows of a manifest can be trained on, and why the others cannot: the one place of these rules.

By the manifest's columns alone it takes seconds on a million rows; `read_audio` decodes every recording besides.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from sewkit import lengths
from sewkit.audio import SAMPLE_RATE, AudioError
from sewkit.config import ModelConfig
from sewkit.data.manifest import Manifest, ManifestError, Utterance, load_utterance
from sewkit.data.utterances import durations_of
from sewkit.text import Alphabet

RULES = {
    "bad row": "the line of the manifest is not a usable row",
    "unreadable": "the recording cannot be read",
    "empty": "the recording holds no sound",
    "too short": "the recording gives no frame, or is shorter than asked for",
    "too long": "the recording is longer than asked for",
    "wrong duration": "the recording does not last as long as the manifest says",
    "no text": "there is no text to learn from",
    "characters": "the text has characters outside the alphabet",
    "text too long": "the text needs more frames than the recording gives (CTC: one a letter, one between equal ones)",
}
"""Every rule by name; a row breaks the first one that it meets in this order."""

NUM_EXAMPLES = 3
DURATION_SLACK = 0.1
"""Seconds by which a recording may differ from its manifest's duration."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a model and a run ask of a row."""

    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    alphabet: Alphabet | None = None
    """None: the text plays no part."""
    conv_layers: tuple[tuple[int, int, int], ...] = ()
    """Of the feature extractor, which decides how many frames a recording gives; empty where no model is known."""

    @classmethod
    def of_model(
        cls,
        config: ModelConfig,
        alphabet: Alphabet | None = None,
        min_seconds: float = 0.0,
        max_seconds: float = float("inf"),
    ) -> "Requirements":
        """A squeezed frame of this model at any operating point, and frames enough for the text if it has letters."""
        shortest = lengths.min_samples(config.conv_layers, max(config.squeeze_factors)) / SAMPLE_RATE
        return cls(
            min_seconds=max(min_seconds, shortest),
            max_seconds=max_seconds,
            alphabet=alphabet,
            conv_layers=config.conv_layers,
        )


@dataclass
class Report:
    """What was found. `str` is a few lines for people, `to_dict` is for machines."""

    num_rows: int = 0
    num_kept: int = 0
    seconds: float = 0.0
    kept_seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    """Rows left out, by rule."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first few of them: name and what is wrong."""

    def add(self, rule: str, example: str) -> None:
        """One row that breaks a rule."""
        self.counts[rule] = self.counts.get(rule, 0) + 1
        if len(self.examples.setdefault(rule, [])) < NUM_EXAMPLES:
            self.examples[rule].append(example)

    def __str__(self) -> str:
        lines = [
            f"{self.num_kept:,} of {self.num_rows:,} rows can be used, "
            f"{self.kept_seconds / 3600:.2f} of {self.seconds / 3600:.2f} hours"
        ]
        for rule in sorted(self.counts, key=list(RULES).index):
            lines.append(f"left out {self.counts[rule]:,}: {rule}, {RULES[rule]}")
            lines += [f"  {example}" for example in self.examples[rule]]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return vars(self)


def validate(
    rows: Sequence[Utterance],
    requirements: Requirements,
    *,
    read_audio: bool = False,
    threads: int = 4,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, Report]:
    """(numbers of the rows that can be used, ascending; the report, which the caller prints once).

    `on_progress` is called with the seconds of each row done.
    """
    durations = durations_of(rows)
    report = Report(num_rows=len(rows), seconds=float(durations.sum()))
    is_kept = np.ones(len(rows), dtype=bool)
    for index, (rule, problem) in sorted(_broken_by_columns(rows, durations, requirements).items()):
        is_kept[index] = False
        if report.counts.get(rule, 0) < NUM_EXAMPLES:
            problem = f"{_name(rows, index)}: {problem}"
        report.add(rule, problem)
    if read_audio:
        left = np.flatnonzero(is_kept)
        for index, found in zip(left.tolist(), _read_all(rows, left, threads), strict=True):
            is_kept[index] = found is None
            if found:
                report.add(*found)
            if on_progress:
                on_progress(float(durations[index]))
    report.num_kept, report.kept_seconds = int(is_kept.sum()), float(durations[is_kept].sum())
    return np.flatnonzero(is_kept), report


def select(rows: Sequence[Utterance], kept: np.ndarray) -> Sequence[Utterance]:
    """The rows that can be used, of the same kind as they came."""
    return rows.select(kept) if isinstance(rows, Manifest) else [rows[index] for index in kept.tolist()]


def _name(rows: Sequence[Utterance], index: int) -> str:
    try:
        return rows[index].name
    except ManifestError as error:
        return str(error)


def _broken_by_columns(
    rows: Sequence[Utterance], durations: np.ndarray, needs: Requirements
) -> dict[int, tuple[str, str]]:
    """Number of a row -> (the rule it breaks, what is wrong), by durations and texts alone."""
    broken: dict[int, tuple[str, str]] = {}
    is_broken = (durations > needs.max_seconds) | (durations < needs.min_seconds) | (durations <= 0)
    for index in np.flatnonzero(is_broken).tolist():
        seconds = durations[index]
        if seconds <= 0:
            broken[index] = "empty", "0 s"
        elif seconds < needs.min_seconds:
            broken[index] = "too short", f"{seconds:g} s, at least {needs.min_seconds:g} s are needed"
        else:
            broken[index] = "too long", f"{seconds:.1f} s, at most {needs.max_seconds:g} s are wanted"
    if needs.alphabet is None:
        return broken
    check = _TextCheck(needs.alphabet)
    texts = rows.column("text") if isinstance(rows, Manifest) else [row.text for row in rows]
    for row, (text, frames) in enumerate(zip(texts, _frames(durations, needs), strict=True)):
        found = check(text, frames)
        if found:
            broken.setdefault(row, found)
    return broken


def _frames(durations: np.ndarray, needs: Requirements) -> list[int]:
    """Frames of each recording; as many as one likes where no model is known."""
    if not needs.conv_layers:
        return [2**62] * len(durations)
    samples = torch.from_numpy(np.round(durations * SAMPLE_RATE).astype(np.int64))
    return lengths.num_frames(samples, needs.conv_layers).tolist()


class _TextCheck:
    """Callable: (text, frames) -> (rule, what is wrong) or None."""

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        letters = {token for token in alphabet.ids if len(token) == 1}
        self.letters = frozenset(letters | {letter.lower() for letter in letters} | {" "})

    def __call__(self, text: Any, frames: int) -> tuple[str, str] | None:
        if not isinstance(text, str):
            return "no text", "the row has no text"
        # Most rows need no closer look: no more labels than characters, and no more blanks than labels.
        if self.letters.issuperset(text) and frames >= 2 * len(text):
            return None
        try:
            labels = torch.tensor(self.alphabet.encode(text), dtype=torch.int64)
        except ValueError as error:
            return "characters", f"{error} (in {shorten(text)!r})"
        needed = int(lengths.needed_frames(labels, torch.tensor([labels.numel()])))
        return (
            None if frames >= needed else ("text too long", f"{frames} frames, {needed} needed for {shorten(text)!r}")
        )


def shorten(text: str, size: int = 60) -> str:
    """The first `size` characters."""
    return text if len(text) <= size else text[: size - 3] + "..."


def _read_all(rows: Sequence[Utterance], indices: np.ndarray, threads: int) -> Iterator[tuple[str, str] | None]:
    """What decoding each row finds, in order; a thousand rows ahead, for a million futures would fill the memory."""
    numbers = iter(indices.tolist())
    with ThreadPoolExecutor(threads) as executor:
        while chunk := list(islice(numbers, 1000)):
            yield from executor.map(lambda index: _broken_by_audio(rows, index), chunk)


def _broken_by_audio(rows: Sequence[Utterance], index: int) -> tuple[str, str] | None:
    """(rule, name and what is wrong) or None."""
    try:
        row = rows[index]
        samples = load_utterance(row)
    except ManifestError as error:
        return "bad row", str(error)
    except (AudioError, OSError) as error:
        return "unreadable", str(error)
    seconds = samples.size / SAMPLE_RATE
    if not samples.any():
        return "empty", f"{row.name}: digital silence"
    if abs(seconds - row.duration) > DURATION_SLACK:
        return "wrong duration", f"{row.name}: {seconds:.2f} s, the manifest says {row.duration:.2f} s"
    return None
