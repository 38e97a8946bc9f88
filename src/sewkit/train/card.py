"""The model card, README.md of a trained model's folder: facts of the run only, nothing that was not measured."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.compute import describe_points, macs
from sewkit.config import ModelConfig
from sewkit.files import write_whole
from sewkit.train.metrics import LOG_NAME, read_log
from sewkit.version import __version__

CARD_NAME = "README.md"
CLIP_SECONDS = 10
FAMILIES = {"wav2vec2": "wav2vec 2.0", "sew": "SEW", "sew-d": "SEW-D"}


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run was trained on."""

    name: str
    hours: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A figure of the last time it was measured."""

    metric: str
    value: float
    update: int
    """Over all stages."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything that a model card says."""

    name: str
    config: ModelConfig
    num_parameters: int
    data: tuple[Data, ...]
    recipe: str
    """YAML."""
    started_from: str | None = None
    """A model, or None for random weights."""
    results: tuple[Result, ...] = ()

    def to_markdown(self) -> str:
        """The text of README.md."""
        sections = {
            "": f"{_task(self.config)}, trained with sewkit {__version__}.",
            "Use": _usage(self.config),
            "Architecture": _table([("", ""), *_architecture(self)]),
            "Training data": _table([("manifest", "hours"), *((d.name, _hours(d.hours)) for d in self.data)]),
            "Results": _results(self.results),
            "Recipe": f"```yaml\n{self.recipe.strip()}\n```",
            "Versions": f"sewkit {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        }
        texts = [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
        return "\n\n".join([_front_matter(self.config), f"# {self.name}", *texts]) + "\n"


def write_card(folder: Path, card: Card) -> None:
    """Write README.md into a model's folder."""
    write_whole(folder / CARD_NAME, card.to_markdown())


def last_results(run: Path) -> tuple[Result, ...]:
    """What a run measured on its dev sets last: the newest figure of every metric in its log."""
    results: dict[str, Result] = {}
    for line in read_log(run / LOG_NAME):
        if "learning_rate" in line:
            continue  # of training
        for metric, value in line.items():
            if metric not in ("stage", "update", "step", "alarms") and value is not None:
                results[metric] = Result(metric=metric, value=value, update=line["step"])
    return tuple(results.values())


def _task(config: ModelConfig) -> str:
    family = FAMILIES[config.family]
    if config.vocab_size is not None:
        return f"A {family} model that writes down speech (CTC)"
    if config.num_labels is not None:
        return f"A {family} model that sorts utterances into {config.num_labels} classes"
    return f"A pre-trained {family} encoder of speech, to be fine-tuned"


def _usage(config: ModelConfig) -> str:
    call = "encode([waveform])  # float32 at 16 kHz"
    if config.vocab_size is not None:
        call = 'transcribe("speech.wav").text'
    elif config.num_labels is not None:
        call = 'classify("speech.wav")'
    return f'```python\nimport sewkit\nmodel = sewkit.load("this folder")\nmodel.{call}\n```'


def _architecture(card: Card) -> list[tuple[str, Any]]:
    config = card.config
    cost = sum(macs(config, CLIP_SECONDS * SAMPLE_RATE).values()) / CLIP_SECONDS
    return [
        ("family", FAMILIES[config.family]),
        ("parameters", f"{card.num_parameters / 1e6:.2f} M"),
        ("encoder", f"{config.num_layers} layers of width {config.hidden_size}, {config.num_heads} heads"),
        ("operating points", describe_points(config)),
        ("cost of a second of sound", f"{cost / 1e6:,.0f} MMAC at the dearest point, in a clip of {CLIP_SECONDS} s"),
        ("started from", card.started_from or "random weights"),
    ]


def _results(results: tuple[Result, ...]) -> str:
    if not results:
        return "Nothing was measured during training."
    rows = [(_code(r.metric), f"{r.value:.4g}", r.update) for r in results]
    return (
        "On the recipe's dev sets, which choices in training may have been made on; not on test data. Rates are "
        "fractions.\n\n" + _table([("metric", "value", "after update"), *rows])
    )


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:,.2f}"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(rows: list[tuple[Any, ...]]) -> str:
    """Markdown; the first row is its head."""
    head, *body = [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _front_matter(config: ModelConfig) -> str:
    pipeline = "automatic-speech-recognition" if config.vocab_size is not None else "audio-classification"
    lines = ["library_name: sewkit", f"tags: [speech, {config.family}]"]
    if config.vocab_size is not None or config.num_labels is not None:
        lines.append(f"pipeline_tag: {pipeline}")
    return "\n".join(["---", *lines, "---"])
