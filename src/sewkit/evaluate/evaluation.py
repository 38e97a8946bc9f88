"""The result of running a system over a manifest, as it is kept in report.json."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sewkit.errors import UserError
from sewkit.evaluate.bootstrap import Clusters, Resampled
from sewkit.evaluate.normalize import find_normalizer
from sewkit.evaluate.scores import Heard, Scores
from sewkit.evaluate.wer import ErrorRate

FORMAT = "sewkit evaluation 1"


@dataclass(frozen=True, kw_only=True)
class System:
    """What was run."""

    model: str
    parameters: int
    compute: str
    """The operating point."""
    decoding: str
    device: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What it cost, from the first recording that is opened to the last transcript; loading the model not counted."""

    seconds: float
    reading_seconds: float
    """Of these, spent on reading and decoding audio files."""
    audio_seconds: float
    peak_memory_mib: float | None
    """The most that the process has held since it began, model and libraries included; None where not known."""
    peak_gpu_memory_mib: float | None = None

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of sound: below 1 is faster than speech."""
        return self.seconds / self.audio_seconds if self.audio_seconds else 0.0

    @property
    def times_real_time(self) -> float:
        """Seconds of sound in a second of work, the inverse."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A recording that could not be read, and is in no figure."""

    row: int
    name: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `sewkit evaluate` reports of one manifest."""

    manifest: str
    manifest_sha256: str
    split: str | None
    system: System
    normalizer: str
    resampled: Resampled | None
    """What the bootstrap was told to draw; None: it chose."""
    speed: Speed
    heard: list[Heard]
    missing: list[Missing]
    environment: dict[str, Any] = field(default_factory=dict)
    """Hardware, versions and date."""
    command: str = ""

    @property
    def model(self) -> str:
        """Its name."""
        return self.system.model

    @property
    def audio_seconds(self) -> float:
        """Sound that was transcribed."""
        return self.speed.audio_seconds

    @cached_property
    def scores(self) -> Scores:
        """Errors of each utterance."""
        return Scores(self.heard, find_normalizer(self.normalizer))

    @cached_property
    def clusters(self) -> Clusters:
        """What the intervals are drawn over."""
        return self.scores.clusters(self.resampled)

    @cached_property
    def rates(self) -> tuple[ErrorRate, ErrorRate]:
        """Word and character error rate. Raises UserError where no reference has a word."""
        try:
            return self.scores.rates(self.clusters)
        except ValueError as error:
            raise UserError(
                f"{self.manifest}: {error} after normalizer {self.normalizer!r}; expected texts of what is spoken"
            ) from error

    @property
    def wer(self) -> ErrorRate:
        """Word error rate."""
        return self.rates[0]

    @property
    def cer(self) -> ErrorRate:
        """Character error rate."""
        return self.rates[1]

    @property
    def title(self) -> str:
        """Manifest and split for people."""
        return Path(self.manifest).stem + (f", split {self.split}" if self.split else "")

    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        notes = [self.clusters.reason]
        if self.missing:
            total = len(self.heard) + len(self.missing)
            notes.append(f"{len(self.missing)} of {total} recordings could not be read and are in no figure.")
        empty = [index for index, counts in enumerate(self.scores.words) if not counts.num_units]
        if empty:
            inserted = sum(self.scores.words[index].errors for index in empty)
            notes.append(f"{len(empty)} references are empty: all {inserted} words written there are insertions.")
        if lost := sum(any(map(str.isdigit, one.reference)) for one in self.heard if self.normalizer == "librispeech"):
            notes.append(f"The normalizer removed the digits of {lost} references; write them as they are spoken.")
        return notes + self._case_note()

    def _case_note(self) -> list[str]:
        """References in another case than the hypotheses make every word an error."""
        references, hypotheses = "".join(self.scores.references), "".join(self.scores.hypotheses)
        cases = [(text.isupper(), text.islower()) for text in (references, hypotheses)]
        if not hypotheses or cases[0] == cases[1]:
            return []
        return [
            "References and hypotheses differ in case or punctuation, which counts as errors: "
            "see --normalizer librispeech and whisper-english."
        ]

    def __str__(self) -> str:
        lines = [f"{self.title}: WER {self.wer}, {self.audio_seconds:.0f} s of audio"]
        lines.append(f"  CER {self.cer}")
        lines.append(f"  {speed_line(self.speed)}; normalizer {self.normalizer}")
        return "\n".join(lines + [f"  {note}" for note in self.notes()])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: figures and tables, and all texts, from which `from_dict` makes them again."""
        scores = self.scores
        return {
            "format": FORMAT,
            "manifest": self.manifest,
            "manifest_sha256": self.manifest_sha256,
            "split": self.split,
            "model": self.model,
            "audio_seconds": self.audio_seconds,
            "num_utterances": len(self.heard),
            "num_missing": len(self.missing),
            "normalizer": self.normalizer,
            "wer": asdict(self.wer),
            "cer": asdict(self.cer),
            "resampled": self.resampled,
            "notes": self.notes(),
            "system": asdict(self.system),
            "speed": {
                **asdict(self.speed),
                "real_time_factor": self.speed.real_time_factor,
                "times_real_time": self.speed.times_real_time,
            },
            "environment": self.environment,
            "command": self.command,
            "confusions": [asdict(one) for one in scores.confusions],
            "speakers": [asdict(one) for one in scores.by_speaker()],
            "durations": [asdict(one) for one in scores.by_seconds()],
            "lengths": [asdict(one) for one in scores.by_words()],
            "missing": [asdict(one) for one in self.missing],
            "utterances": [
                {**asdict(one), "errors": words.errors, "words": words.num_units}
                for one, words in zip(self.heard, scores.words, strict=True)
            ],
        }

    @classmethod
    def from_dict(cls, facts: dict[str, Any], name: str) -> Evaluation:
        """From `to_dict`. Raises UserError, which names `name`, where it is something else."""
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        if found != FORMAT:
            raise UserError(f"{name}: expected a report.json that sewkit evaluate wrote ({FORMAT!r}), found {found!r}")
        try:
            return cls(
                **{key: facts[key] for key in _PLAIN},
                system=System(**facts["system"]),
                speed=Speed(**_of(Speed, facts["speed"])),
                heard=[Heard(**_of(Heard, one)) for one in facts["utterances"]],
                missing=[Missing(**one) for one in facts["missing"]],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name}: is incomplete ({error}); evaluate again") from error


_PLAIN = ("manifest", "manifest_sha256", "split", "normalizer", "resampled", "environment", "command")


def _of(kind: type, facts: dict[str, Any]) -> dict[str, Any]:
    """Those of the facts that a class holds; others follow from them."""
    return {key: value for key, value in facts.items() if key in kind.__dataclass_fields__}  # type: ignore[attr-defined]


def speed_line(speed: Speed) -> str:
    """For people."""
    memory = "" if speed.peak_memory_mib is None else f", peak memory {speed.peak_memory_mib:,.0f} MiB"
    return (
        f"real-time factor {speed.real_time_factor:.3f} ({speed.times_real_time:,.1f} times real time, "
        f"{speed.seconds:.1f} s){memory}"
    )


def read_evaluation(path: Path) -> Evaluation:
    """A report.json. Raises UserError."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a report.json") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected a report.json that sewkit evaluate wrote") from error
    return Evaluation.from_dict(facts, str(path))


def file_sha256(path: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def peak_memory_mib() -> float | None:
    """The most memory that this process has held since it began; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
