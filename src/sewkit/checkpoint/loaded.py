"""A model in memory with what its outputs mean: what is read, and what is written."""

from __future__ import annotations

from dataclasses import dataclass

from sewkit.model import SpeechModel
from sewkit.text import Alphabet


@dataclass(frozen=True)
class LoadedModel:
    """A model with what its outputs mean.

    model: in evaluation mode, float32, on the CPU.
    alphabet: the tokens of a CTC head; None without such a head, and where no file says them.
    labels: the classes of a classification head by id; None without one.
    label_column: the manifest column that the labels were taken from, such as "speaker"; None where no file says it.
    """

    model: SpeechModel
    alphabet: Alphabet | None = None
    labels: tuple[str, ...] | None = None
    label_column: str | None = None
