"""What was heard of each utterance, and where the errors are: by word, by speaker, by length."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sewkit.evaluate.bootstrap import NUM_RESAMPLES, Clusters, Resampled
from sewkit.evaluate.edits import Edit, align_texts
from sewkit.evaluate.normalize import Normalizer
from sewkit.evaluate.wer import ErrorRate, letter_errors, rate_of, word_errors

SECONDS_EDGES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
WORDS_EDGES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One utterance of a manifest and what a system wrote for it, both as written."""

    row: int
    """In the manifest or the split of it, from 0."""
    name: str
    speaker: str
    """ "" where not known."""
    seconds: float
    reference: str
    hypothesis: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rates over the utterances that share a speaker or a length."""

    name: str
    num_utterances: int
    seconds: float
    num_words: int
    errors: int
    wer: float
    cer: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A word and what was written for it; None where one side has nothing. `of`: how often the reference has it."""

    reference: str | None
    hypothesis: str | None
    count: int
    of: int


class Scores:
    """Errors of all utterances after one normaliser. Counts are made at once, alignments when they are asked for."""

    def __init__(self, heard: Sequence[Heard], normalizer: Normalizer) -> None:
        self.heard = heard
        self.normalizer = normalizer
        self.references = [normalizer(one.reference) for one in heard]
        self.hypotheses = [normalizer(one.hypothesis) for one in heard]
        self.words = word_errors(self.references, self.hypotheses)
        self.characters = letter_errors(self.references, self.hypotheses)

    def __len__(self) -> int:
        return len(self.heard)

    def clusters(self, wanted: Resampled | None = None) -> Clusters:
        """What a bootstrap draws, see `Clusters.choose`."""
        return Clusters.choose([one.speaker for one in self.heard], wanted)

    def rates(self, clusters: Clusters, num_resamples: int = NUM_RESAMPLES) -> tuple[ErrorRate, ErrorRate]:
        """(word error rate, character error rate). Raises ValueError where no reference has a word."""
        words = ErrorRate.of(self.words, clusters, "word", num_resamples=num_resamples)
        return words, ErrorRate.of(self.characters, clusters, "character", num_resamples=num_resamples)

    def edits(self, index: int) -> list[Edit]:
        """The utterance's words, aligned."""
        return align_texts([self.references[index]], [self.hypotheses[index]])[0]

    def worst(self, count: int) -> list[int]:
        """Utterances with errors, those with most errors first, of equals those with the highest rate."""
        wrong = [index for index, counts in enumerate(self.words) if counts.errors]
        return sorted(wrong, key=lambda index: (-self.words[index].errors, -self.words[index].rate))[:count]

    @cached_property
    def confusions(self) -> list[Confusion]:
        """Every substitution, deletion and insertion of words, most frequent first."""
        edits = (edit for index in range(len(self)) if self.words[index].errors for edit in self.edits(index))
        counts = Counter(edit for edit in edits if edit.kind != "equal")
        occurrences = Counter(word for text in self.references for word in text.split())
        return [
            Confusion(
                reference=edit.reference,
                hypothesis=edit.hypothesis,
                count=count,
                of=occurrences[edit.reference] if edit.reference is not None else 0,
            )
            for edit, count in sorted(counts.items(), key=lambda item: (-item[1], *map(str, item[0])))
        ]

    def by_speaker(self) -> list[Group]:
        """A group for each speaker that is known, the highest word error rate first."""
        groups = self._groups([one.speaker for one in self.heard])
        return sorted((self._group(str(name), groups[name]) for name in groups if name), key=lambda one: -one.wer)

    def by_seconds(self) -> list[Group]:
        """Groups of like duration, shortest first."""
        return self._by_size([one.seconds for one in self.heard], SECONDS_EDGES, "s")

    def by_words(self) -> list[Group]:
        """Groups of references of like length, shortest first."""
        return self._by_size([counts.num_units for counts in self.words], WORDS_EDGES, "words")

    def _by_size(self, sizes: Sequence[float], edges: Sequence[float], unit: str) -> list[Group]:
        groups = self._groups([sum(size >= edge for edge in edges) for size in sizes])
        return [self._group(_size_name(number, edges, unit), indices) for number, indices in sorted(groups.items())]

    def _groups(self, keys: Iterable[Any]) -> dict[Any, list[int]]:
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index, key in enumerate(keys):
            groups[key].append(index)
        return groups

    def _group(self, name: str, indices: list[int]) -> Group:
        words = [self.words[index] for index in indices]
        return Group(
            name=name,
            num_utterances=len(indices),
            seconds=sum(self.heard[index].seconds for index in indices),
            num_words=sum(one.num_units for one in words),
            errors=sum(one.errors for one in words),
            wer=rate_of(words),
            cer=rate_of([self.characters[index] for index in indices]),
        )


def _size_name(number: int, edges: Sequence[float], unit: str) -> str:
    """ "2 to 5 s" holds from 2 to just below 5."""
    if number == 0:
        return f"0 {unit}" if isinstance(edges[0], int) else f"0 to {edges[0]:g} {unit}"
    if number == len(edges):
        return f"{edges[-1]:g} {unit} and more"
    low, high = edges[number - 1], edges[number]
    if isinstance(low, int):
        if high > low + 1:
            return f"{low} to {high - 1:g} {unit}"
        return f"{low} {unit if low > 1 else unit.removesuffix('s')}"
    return f"{low:g} to {high:g} {unit}"
