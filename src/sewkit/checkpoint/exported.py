"""Folders of models exported for another runtime: what config.json says of them, beside what it says of any model.

config.json has the model type "sewkit" and the shape of the model, as a stochastic model's has, and under "export" the
fields of `Exported`; the files of the graphs and one file of their constants take the place of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sewkit.checkpoint.errors import CheckpointError
from sewkit.compute import operating_points
from sewkit.config import ModelConfig

RuntimeName = Literal["openvino", "onnx"]
Precision = Literal["float32", "int8"]


class Exported(BaseModel):
    """What an exported folder holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(exclude=True)
    format: Literal[2] = Field(description="2: graphs take the number of samples beside the samples")
    runtime: RuntimeName
    precision: Precision
    weight_bits: Literal[7, 8] = 8
    """Of int8 weights; 7 is half of the range, which any processor adds up right, see `adds_int8_exactly`."""
    graphs: dict[str, str]
    """The file of each operating point."""
    unheard: list[list[float]]
    """See `sewkit.runtime.graph.unheard_outputs`."""
    digest: str
    """SHA-256 of the graphs and their constants."""
    versions: dict[str, str]
    """Of what made it."""

    @field_validator("graphs")
    @classmethod
    def _inside(cls, graphs: dict[str, str]) -> dict[str, str]:
        for name in graphs.values():
            if Path(name).name != name:
                raise ValueError(f"the file {name!r} lies outside the folder")
        return graphs


def read_exported(folder: Path, raw: Any, config: ModelConfig) -> Exported:
    """From config.json's "export". Raises CheckpointError where it is not whole, or a file of a graph is missing."""
    source = folder / "config.json"
    try:
        exported = Exported(folder=folder, **raw)
    except (ValidationError, TypeError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{source}: malformed export: {problem}; export the model again") from error
    lacking = {str(point) for point in operating_points(config)} - exported.graphs.keys()
    missing = [name for name in exported.graphs.values() if not (folder / name).is_file()]
    if lacking or missing:
        found = f"no graph of {', '.join(sorted(lacking))}" if lacking else f"{', '.join(missing)} missing"
        raise CheckpointError(f"{folder}: {found}; copy the whole folder, or export the model again")
    return exported


def exported_only(exported: Exported) -> CheckpointError:
    """Of an exported model where weights are needed."""
    return CheckpointError(
        f"{exported.folder}: exported for {exported.runtime}, which runs it but has no weights to train, convert or "
        "save; give the model that it was made from"
    )
