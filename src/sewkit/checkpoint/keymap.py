"""Tensor names: ours and another implementation's, as a table of pattern pairs used in both directions.

A pattern is a whole name; `{i}` stands for an index, `{p}` for `weight` or `bias`. Patterns are anchored: transformers'
own conversion once matched substrings, where "output.dense" also hits "attention.output.dense", and the first upload
of the SEW weights was wrong for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from sewkit.checkpoint.errors import CheckpointError
from sewkit.config import ModelConfig
from sewkit.model import SpeechModel, build_empty

Rows = tuple[tuple[str | None, str], ...]
"""(our pattern, their pattern); None for ours: known, and dropped on purpose. The first row that matches counts."""

_OPTIONAL = "mask_embedding"
"""Used in training only: transformers leaves it out where nothing is masked; facebook/wav2vec2-base-960h lacks it."""


class KeyMap:
    """Renames in both directions by one table."""

    def __init__(self, rows: Rows):
        self.rows = rows

    @cached_property
    def _from_theirs(self) -> list[tuple[re.Pattern[str], str | None]]:
        return [(_compile(theirs), ours) for ours, theirs in self.rows]

    @cached_property
    def _from_ours(self) -> list[tuple[re.Pattern[str], str | None]]:
        return [(_compile(ours), theirs) for ours, theirs in self.rows if ours is not None]

    def ours(self, key: str) -> str | None:
        """Our name of their tensor; None for one that is dropped. Raises KeyError for an unknown one."""
        return _rename(key, self._from_theirs)

    def theirs(self, key: str) -> str:
        """Their name of our tensor. Raises KeyError where they have no such tensor."""
        renamed = _rename(key, self._from_ours)
        assert renamed is not None
        return renamed

    def read(self, tensors: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
        """Their tensors under our names. Raises CheckpointError that lists the names the table does not know."""
        named: dict[str, Tensor] = {}
        unknown = []
        for key, tensor in tensors.items():
            try:
                ours = self.ours(key)
            except KeyError:
                unknown.append(key)
                continue
            if ours in named:
                raise CheckpointError(f"{source}: two tensors for one parameter, the second is {key}")
            if ours is not None:
                named[ours] = tensor
        if unknown:
            raise CheckpointError(f"{source}: {listing(unknown, 'tensor')} that this kind of model does not have")
        return named


def _compile(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{p\}", "(?P<p>weight|bias)")
    return re.compile(escaped)


def _rename(key: str, rules: list[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, target in rules:
        if match := pattern.fullmatch(key):
            return target.format(**match.groupdict()) if target is not None else None
    raise KeyError(key)


def listing(names: Iterable[str], noun: str, limit: int = 6) -> str:
    """'3 tensors (a, b, c)', cut after `limit` names."""
    names = list(names)
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"


def fill_model(
    config: ModelConfig, tensors: Mapping[str, Tensor], source: object, keymap: KeyMap | None = None
) -> SpeechModel:
    """A float32 model in evaluation mode with exactly these tensors, under our names.

    Raises CheckpointError, in the names of the file, for tensors that are missing, left over or of another shape.
    """
    model = build_empty(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if _OPTIONAL not in tensors:
        # A fixed draw, so that loading twice gives the same model; fairseq and transformers draw from [0, 1) too.
        seeded = torch.Generator().manual_seed(0)
        tensors = {**tensors, _OPTIONAL: torch.rand(expected[_OPTIONAL], generator=seeded, device="cpu")}
    check_fit(expected, tensors, source, keymap)
    # Copies: what was read may be mapped from a file, which must be free to be replaced while the model lives.
    weights = {key: tensors[key].detach().to(torch.float32, copy=True).contiguous() for key in expected}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def check_fit(
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    source: object,
    keymap: KeyMap | None = None,
) -> None:
    """Raise CheckpointError unless these are tensors of exactly these names (ours; shown as the file's) and shapes."""

    def name(key: str) -> str:
        try:
            return keymap.theirs(key) if keymap is not None else key
        except KeyError:
            return key

    problems = []
    if missing := [name(key) for key in expected if key not in tensors]:
        problems.append(f"{listing(missing, 'tensor')} missing")
    if left_over := [name(key) for key in tensors if key not in expected]:
        problems.append(f"{listing(left_over, 'tensor')} left over")
    wrong = [
        f"{name(key)}: expected {shape}, found {tuple(tensors[key].shape)}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    if wrong:
        problems.append(f"{listing(wrong, 'shape')} wrong")
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit the configuration: {'; '.join(problems)}")
