"""Random strings of words joined from isolated recordings: batches as a function of (seed, update, lane).

A string draws its words from weighted sources (real digits, real commands, synthesized voices, ...), from one of them
or from all, sometimes from one speaker, and joins them with pauses. Strings of like length share a batch. Some
examples have no words at all: noise with an empty text.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from sewkit.audio import SAMPLE_RATE
from sewkit.data.augment import Augmenter, sound_span
from sewkit.data.batch import Batch, make_batch, row_seeds
from sewkit.data.manifest import ManifestError, load_utterance, read_manifest
from sewkit.text import Alphabet

PAD_TO_SAMPLES = SAMPLE_RATE // 10
POOL = 8
"""Batches drawn together and sorted by length."""


class Source(BaseModel):
    """Recordings of one manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: Path
    weight: float = 1.0
    """For strings only: how often a word is drawn from this source; 0 for whole utterances beside strings."""
    split: str = "train"
    intents: tuple[str, ...] = ()
    """Only rows whose `intent` is among these; empty for all."""


class Strings(BaseModel):
    """One phase of a curriculum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    updates: int
    num_words: tuple[int, int] = (1, 1)
    words_per_batch: int = 48
    pause: tuple[float, float] = (0.0, 0.5)
    """Seconds between words, and half of it around the string."""
    long_pause_probability: float = 0.0
    """How often a pause is drawn from `long_pause` instead."""
    long_pause: tuple[float, float] = (0.5, 4.0)
    empty_probability: float = 0.0
    """How often a string is only noise, with empty text."""
    one_source_probability: float = 0.5
    one_speaker_probability: float = 0.5
    """Of the strings from one source, how many keep to one speaker (if the speaker has at least five clips)."""


@dataclass(frozen=True)
class Clip:
    """One recording in memory."""

    samples: np.ndarray
    """int16 (S,): half the memory of float32, and exact for what the files hold."""
    text: str
    speaker: str


@dataclass(frozen=True)
class String:
    """Words joined."""

    samples: np.ndarray
    """float32 (S,)."""
    text: str
    spans: list[tuple[int, int]]
    """(first sample, end) of the sound of each word."""


class ClipSource:
    """The clips of one source; words are drawn with the square root of their counts, so that rare ones appear."""

    def __init__(self, clips: list[Clip], weight: float) -> None:
        self.clips = clips
        self.weight = weight
        texts, inverse, counts = np.unique([clip.text for clip in clips], return_inverse=True, return_counts=True)
        del texts
        self.cumulative = np.cumsum(counts[inverse] ** -0.5)
        self.by_speaker: dict[str, list[int]] = {}
        for index, clip in enumerate(clips):
            self.by_speaker.setdefault(clip.speaker, []).append(index)

    def draw(self, generator: np.random.Generator) -> Clip:
        """Any clip."""
        return self.clips[int(np.searchsorted(self.cumulative, generator.random() * self.cumulative[-1], side="right"))]

    def draw_like(self, clip: Clip, generator: np.random.Generator) -> Clip:
        """Any clip of the same speaker."""
        mine = self.by_speaker[clip.speaker]
        return self.clips[mine[int(generator.integers(len(mine)))]]


def load_source(source: Source, data_root: Path) -> ClipSource:
    """Read the recordings of a source into memory."""
    rows = read_manifest(data_root / source.manifest, split=source.split)
    if source.intents:
        rows = [row for row in rows if row.extra.get("intent") in source.intents]
    if not rows:
        raise ManifestError(f"{data_root / source.manifest}: no {source.split} row with intent {source.intents}")
    clips = [Clip(to_int16(load_utterance(row)), row.text, row.speaker) for row in rows]
    return ClipSource(clips, source.weight)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] -> int16."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)


class StringBatches:
    """Callable: update -> the micro-batches of this process, for a curriculum of phases.

    `lanes` is the number of micro-batches an update, over all processes; a process takes every `world`-th of them. Each
    lane draws its own pools: a process draws only what it uses.
    """

    def __init__(
        self,
        sources: list[ClipSource],
        phases: list[Strings],
        augmenter: Augmenter,
        alphabet: Alphabet,
        seed: int,
        lanes: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sources = sources
        self.phases = phases
        self.augmenter = augmenter
        self.alphabet = alphabet
        self.seed = seed
        self.lanes = lanes
        self.rank = rank
        self.world = world
        weights = np.cumsum([source.weight for source in sources])
        self.cumulative = weights / weights[-1]
        self._pool = lru_cache(maxsize=lanes + 1)(self._draw_pool)

    def phase(self, update: int) -> Strings:
        """The phase of an update; the last one goes on for ever."""
        for phase in self.phases:
            if update < phase.updates:
                return phase
            update -= phase.updates
        return self.phases[-1]

    def __call__(self, update: int) -> list[Batch]:
        """The same for the same (seed, update)."""
        return [self.micro_batch(update, lane) for lane in range(self.rank, self.lanes, self.world)]

    def micro_batch(self, update: int, lane: int) -> Batch:
        """One lane's strings. Every one has the seed of its place in the micro-batch."""
        strings = self._pool(update // POOL, lane)[update % POOL]
        seeds = row_seeds(self.seed, update * self.lanes + lane, np.arange(len(strings)))
        texts = [string.text for string in strings]
        batch = make_batch([s.samples for s in strings], texts, self.alphabet, PAD_TO_SAMPLES, seeds)
        return replace(batch, spans=[string.spans for string in strings])

    def _draw_pool(self, pool: int, lane: int) -> list[list[String]]:
        """The strings of POOL batches, sorted by length so that little is padding, the batches in random order."""
        generator = np.random.default_rng((self.seed, pool, lane))
        phase = self.phase(pool * POOL)
        strings: list[String] = []
        num_words = 0
        while num_words < POOL * phase.words_per_batch:
            wanted = int(generator.integers(phase.num_words[0], phase.num_words[1] + 1))
            strings.append(self.draw_string(phase, wanted, generator))
            num_words += wanted
        strings.sort(key=lambda string: string.samples.size)
        ends = np.cumsum([string.samples.size for string in strings])
        owners = np.minimum((ends - 1) * POOL // ends[-1], POOL - 1)
        batches = [
            [string for string, owner in zip(strings, owners, strict=True) if owner == part] for part in range(POOL)
        ]
        filled = [batches[part] for part in generator.permutation(POOL) if batches[part]]
        return [filled[part % len(filled)] for part in range(POOL)]

    def draw_string(self, phase: Strings, num_words: int, generator: np.random.Generator) -> String:
        """Words, pauses, and what happens to them."""
        clips = self.draw_clips(phase, num_words, generator)
        speed = self.augmenter.draw_speed(self.augmenter.settings.string_speed, generator)
        pieces, spans = [silence(generator.uniform(*phase.pause) / 2)], []
        for number, clip in enumerate(clips):
            if number:
                pieces.append(silence(self.draw_pause(phase, generator)))
            word = self.augmenter.word(clip.samples.astype(np.float32) / 32767, generator, speed)
            start = sum(piece.size for piece in pieces)
            first, end = sound_span(word)
            spans.append((start + first, start + end))
            pieces.append(word)
        pieces.append(silence(generator.uniform(*phase.pause) / 2))
        samples, text = np.concatenate(pieces), " ".join(clip.text for clip in clips)
        if generator.random() < phase.empty_probability:
            samples, text, spans = np.zeros_like(samples), "", []
        return String(self.augmenter.string(samples, generator), text, spans)

    def draw_clips(self, phase: Strings, num_words: int, generator: np.random.Generator) -> list[Clip]:
        """The words of a string."""
        first_source = self.draw_source(generator)
        clips = [first_source.draw(generator)]
        one_source = generator.random() < phase.one_source_probability
        one_speaker = one_source and generator.random() < phase.one_speaker_probability
        one_speaker = one_speaker and len(first_source.by_speaker[clips[0].speaker]) >= 5
        while len(clips) < num_words:
            if one_speaker:
                clips.append(first_source.draw_like(clips[0], generator))
            else:
                clips.append((first_source if one_source else self.draw_source(generator)).draw(generator))
        return clips

    def draw_source(self, generator: np.random.Generator) -> ClipSource:
        """A source by weight."""
        return self.sources[int(np.searchsorted(self.cumulative, generator.random(), side="right"))]

    @staticmethod
    def draw_pause(phase: Strings, generator: np.random.Generator) -> float:
        """Seconds between two words."""
        long = generator.random() < phase.long_pause_probability
        return float(generator.uniform(*(phase.long_pause if long else phase.pause)))


def silence(seconds: float) -> np.ndarray:
    """float32 zeros."""
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
