"""ONNX: graphs exported from the PyTorch model, in float32 or in int8, and onnxruntime, which runs them."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.checkpoint import CheckpointError
from sewkit.checkpoint.errors import one_line
from sewkit.compute import Compute
from sewkit.errors import MissingExtraError, UserError
from sewkit.lengths import min_samples
from sewkit.model import SpeechModel
from sewkit.runtime.constants import ConstantsFile, read_graph
from sewkit.runtime.graph import ClipGraph, graph_inputs, output_names

CONSTANTS = "model.bin"
INPUTS = ("waveform", "num_samples")
OPSET = 20
"""The first with GELU as one operator."""
_SMALLEST_SHARED = 1024
"""Bytes from which on a constant goes to the shared file."""
_QUANTIZED = ("MatMul",)
"""Convolutions in dynamic int8 are slower than in float32."""


class OnnxEngine:
    """Runs graphs, each in a session that is made when it is first needed.

    graph: gives the file, or the bytes, of an operating point's graph. Callers get as many threads as PyTorch gives
    them.
    """

    def __init__(self, graph: Callable[[Compute], Path | bytes], dtype: str = "float32"):
        if dtype != "float32":
            raise UserError(f"runtime onnx computes in float32, found dtype {dtype!r}; leave it out")
        self._graph = graph
        self._sessions: dict[tuple[Compute, int], Any] = {}
        self._lock = threading.Lock()

    def run(self, clip: np.ndarray, output: str, compute: Compute) -> np.ndarray:
        """See `Engine.run`."""
        inputs = dict(zip(INPUTS, graph_inputs(clip), strict=True))
        return self._session(compute, torch.get_num_threads()).run([output], inputs)[0]

    def _session(self, compute: Compute, threads: int) -> Any:
        key = (compute, threads)
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = _session(self._graph(compute), threads)
            return self._sessions[key]


def _session(graph: Path | bytes, threads: int) -> Any:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised
    options.add_session_config_entry("session.force_spinning_stop", "1")  # no core is kept busy behind a call
    if isinstance(graph, Path):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    try:
        source = graph if isinstance(graph, bytes) else read_graph(graph)
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except CheckpointError:
        raise
    except Exception as error:  # onnxruntime's own kinds, which have no common base
        name = "the exported graph" if isinstance(graph, bytes) else graph
        raise CheckpointError(
            f"{name}: not a graph that onnxruntime can read ({one_line(error)}); export the model again"
        ) from None


def converted(model: SpeechModel, compute: Compute) -> Any:
    """The graph of a model at one operating point, an onnx.ModelProto with an open number of samples.

    By tracing: PyTorch's newer exporter gives the same nodes and takes ten times as long.
    """
    onnx = _onnx()
    samples = max(SAMPLE_RATE, min_samples(model.config.conv_layers, compute.squeeze))
    example = graph_inputs(np.random.default_rng(0).standard_normal(samples))
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing is deprecated; what it may miss, tests would see
        torch.onnx.export(
            ClipGraph(model, compute).eval(),
            tuple(map(torch.from_numpy, example)),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(output_names(model)),
            dynamic_axes={INPUTS[0]: {1: "samples"}},
        )
    return onnx.load_model_from_string(file.getvalue())


def quantized(graph: Any, folder: Path, weight_bits: int) -> Any:
    """The graph with matrix products in int8; scales of activations are taken of each clip by itself.

    `folder` is for a file that is gone afterwards. weight_bits: 8, or 7, see `Exported`.
    """
    _onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    draft = folder / "quantized.draft.onnx"
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises on the root logger
    try:
        quantize_dynamic(
            graph,
            draft,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=weight_bits == 7,
            extra_options={"MatMulConstBOnly": True},
        )
        return _onnx().load_model(draft)
    finally:
        root.setLevel(level)
        draft.unlink(missing_ok=True)


def write(graphs: Iterator[tuple[str, Any]], folder: Path) -> dict[str, str]:
    """Write graphs by name, NAME.onnx each, with one file of constants; gives the files by name."""
    files = {}
    with ConstantsFile(folder / CONSTANTS) as constants:
        for name, graph in graphs:
            files[name] = f"{name}.onnx"
            _move_constants(graph, constants)
            (folder / files[name]).write_bytes(graph.SerializeToString())
    return files


def _move_constants(graph: Any, constants: ConstantsFile) -> None:
    for tensor in graph.graph.initializer:
        size = len(tensor.raw_data)
        if size < _SMALLEST_SHARED:
            continue
        place = {"location": CONSTANTS, "offset": constants.place(tensor.raw_data), "length": size}
        tensor.ClearField("raw_data")
        tensor.data_location = tensor.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))


def reader(folder: Path, files: Mapping[str, str]) -> Callable[[Compute], Path]:
    """What finds the graphs of an exported folder, by operating point."""
    return lambda compute: folder / files[str(compute)]


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("export to ONNX", "onnx") from None
    return onnx


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("runtime onnx", "onnx") from None
    onnxruntime.disable_telemetry_events()  # where a build has them
    return onnxruntime
