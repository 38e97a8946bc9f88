"""Models for other runtimes: exporting one to a folder, and making the runtime that a request means.

A folder holds the graph of every operating point over one copy of the constants. They differ in little more than the
arithmetic between the weights, so a stochastic model is hardly larger than a fixed one.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from sewkit.checkpoint import CheckpointError, LoadedModel
from sewkit.checkpoint.exported import Exported, RuntimeName
from sewkit.checkpoint.saving import own_config, write_meaning
from sewkit.compute import Compute, operating_points
from sewkit.config import ModelConfig
from sewkit.errors import UserError
from sewkit.lengths import min_samples
from sewkit.model import SpeechModel, build_shape
from sewkit.processor import adds_int8_exactly, multiplies
from sewkit.runtime import onnx, openvino
from sewkit.runtime.clips import ClipRuntime, Engine, as_heard
from sewkit.runtime.constants import pack
from sewkit.runtime.graph import unheard_outputs
from sewkit.runtime.pytorch import TorchRuntime, pick_device
from sewkit.version import __version__

RUNTIMES = ("auto", "torch", *get_args(RuntimeName))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MADE_BY: dict[RuntimeName, tuple[str, ...]] = {"openvino": ("openvino", "nncf"), "onnx": ("onnx", "onnxruntime")}


def make_runtime(loaded: LoadedModel, name: str, device: str | None, dtype: str) -> TorchRuntime | ClipRuntime:
    """What runs a model.

    "auto" is the runtime that an exported folder was made for; of any other model it is PyTorch, which needs no
    conversion. By name "openvino" and "onnx" also run a model that was not exported: each operating point is then
    converted, in float32, when it is first used, which takes seconds. Raises UserError where that cannot be.
    """
    if name not in RUNTIMES:
        raise UserError(f"runtime {name!r} is not known; expected one of {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")
    exported = loaded.exported
    if exported is not None and name not in ("auto", exported.runtime):
        raise UserError(f"{exported.folder} was exported for {exported.runtime}, it does not run in {name}")
    if exported is None and name in ("auto", "torch"):
        return _torch_runtime(loaded, pick_device(device), dtype)
    name = exported.runtime if exported is not None else name
    if device not in (None, "auto", "cpu"):
        raise UserError(f"runtime {name} runs on the CPU, found device {device!r}; leave it out")
    config = loaded.model.config
    if exported is not None:
        dtype = dtype if exported.precision == "float32" else exported.precision
        return ClipRuntime(config, exported.unheard, _reading(exported, dtype), dtype)
    return ClipRuntime(config, unheard_outputs(loaded.model), _converting(loaded.model, name, dtype), dtype)


def _torch_runtime(loaded: LoadedModel, device: torch.device, dtype: str) -> TorchRuntime:
    if not multiplies(DTYPES[dtype], device):
        raise UserError(
            f"dtype {dtype!r}: this processor has no products in it, and would take up to a hundred times as long as "
            "in float32; leave it out"
        )
    return TorchRuntime(loaded.model, device, DTYPES[dtype])


def _reading(exported: Exported, dtype: str) -> Engine:
    if exported.precision == "int8" and exported.weight_bits == 8 and not adds_int8_exactly():
        raise UserError(
            f"{exported.folder}: int8 for processors with VNNI; this one lacks it and would give wrong results; export "
            "the model here, or with --portable"
        )
    if exported.runtime == "openvino":
        return openvino.OpenVINOEngine(openvino.reader(exported.folder, exported.graphs), dtype)
    return onnx.OnnxEngine(onnx.reader(exported.folder, exported.graphs), "float32" if dtype == "int8" else dtype)


def _converting(model: SpeechModel, name: str, dtype: str) -> Engine:
    if name == "openvino":
        return openvino.OpenVINOEngine(lambda point: openvino.converted(model, point), dtype)
    return onnx.OnnxEngine(lambda point: onnx.converted(model, point).SerializeToString(), dtype)


def export(
    loaded: LoadedModel,
    folder: Path,
    runtime: RuntimeName,
    *,
    int8_clips: Sequence[np.ndarray] | None = None,
    portable: bool = False,
    points: Iterable[Compute] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Write a model's graphs, and all else that its folder holds but the weights, into an empty folder.

    int8_clips: real speech, (S,) float32 samples each; with it the model is written in int8, the scales of activations
        fixed by these clips for OpenVINO, and taken of each clip as it comes for ONNX.
    portable: whether int8 weights are to have 7 bits though this processor would take 8, for those that do not.
    points: operating points to be had; what is written is the smallest grid that holds them. None: all of the model's.
    on_progress: called with 1 for each operating point done.
    Raises UserError.
    """
    model = loaded.model
    weight_bits: Literal[7, 8] = 8 if adds_int8_exactly() and not portable else 7
    config = model.config if points is None else grid_of(model.config, points)

    def graphs() -> Iterator[tuple[str, Any]]:
        for point in operating_points(config):
            yield _stem(point), _graph(model, point, runtime, int8_clips, weight_bits, folder)
            if on_progress is not None:
                on_progress(1)

    try:
        files = (openvino if runtime == "openvino" else onnx).write(graphs(), folder)
        if len(files) > 1:
            files = {stem: pack(folder / name) for stem, name in files.items()}
        facts = Exported(
            folder=folder,
            format=2,
            runtime=runtime,
            precision="float32" if int8_clips is None else "int8",
            weight_bits=weight_bits,
            graphs={str(point): files[_stem(point)] for point in operating_points(config)},
            unheard=unheard_outputs(model),
            digest=_digest(folder, files.values()),
            versions={"sewkit": __version__, **{name: version(name) for name in _MADE_BY[runtime]}},
        )
        _write_config(loaded, config, facts)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _write_config(loaded: LoadedModel, config: ModelConfig, facts: Exported) -> None:
    curve = loaded.curve if config == loaded.model.config else None  # a curve is of all points of a grid
    meaning = replace(loaded, model=build_shape(config), curve=curve)
    raw = own_config(meaning)
    raw["sewkit"]["export"] = facts.model_dump(mode="json")
    write_meaning(facts.folder, meaning, raw)


def _graph(
    model: SpeechModel,
    point: Compute,
    runtime: RuntimeName,
    clips: Sequence[np.ndarray] | None,
    weight_bits: int,
    folder: Path,
) -> Any:
    if runtime == "onnx":
        graph = onnx.converted(model, point)
        return graph if clips is None else onnx.quantized(graph, folder, weight_bits)
    graph = openvino.converted(model, point, for_int8=clips is not None)
    if clips is None:
        return graph
    shortest = min_samples(model.config.conv_layers, point.squeeze)
    heard = [as_heard(clip, model.config) for clip in clips if len(clip) >= shortest]
    if not heard:
        raise UserError(f"none of {len(clips)} clips to calibrate with has {shortest} samples; expected real speech")
    return openvino.quantized(graph, heard, weight_bits)


def grid_of(config: ModelConfig, points: Iterable[Compute]) -> ModelConfig:
    """The shape with the smallest sets of factors and pools that hold some operating points."""
    chosen = list(points)
    factors = {point.squeeze for point in chosen}
    return config.replace(
        family="sew" if config.family == "wav2vec2" and 1 not in factors else config.family,
        squeeze_factors=tuple(sorted(factors)),
        query_pools=tuple(sorted({point.query_pool for point in chosen}, key=str)),
        kv_pools=tuple(sorted({point.kv_pool for point in chosen}, key=str)),
    )


def _stem(point: Compute) -> str:
    """Of a graph's files: "squeeze2-kv_pool2"."""
    return str(point).replace("=", "").replace(",", "-").replace("/", "_")


def _digest(folder: Path, files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted({*files, openvino.CONSTANTS}):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft beside `folder` to write to, which becomes it at the end; after an error nothing is left.

    Raises CheckpointError where `folder` exists and is not empty, or cannot be written.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists and is not an empty folder; give the name of a new one")
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        try:
            draft.mkdir(parents=True)
            yield draft
            draft.rename(folder)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
