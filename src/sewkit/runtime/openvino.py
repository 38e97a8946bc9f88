"""OpenVINO: graphs converted from the PyTorch model, in float32 or in int8, and the engine that runs them."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.checkpoint import CheckpointError
from sewkit.checkpoint.errors import one_line
from sewkit.compute import Compute
from sewkit.errors import MissingExtraError
from sewkit.lengths import min_samples
from sewkit.model import SpeechModel
from sewkit.runtime.constants import ConstantsFile, read_graph
from sewkit.runtime.graph import ZEROS, ClipGraph, graph_inputs, output_names

CONSTANTS = "model.bin"
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
INT8 = "int8"
SIZE_UNIT = 125
"""Samples; by powers of two it goes into a second."""
_ONE_AT_A_TIME = threading.RLock()


class OpenVINOEngine:
    """Runs graphs, each compiled when it is first needed.

    graph: gives the graph of an operating point. Threads that call with a share of the CPU threads (as PyTorch counts
    them) each get a stream of their own.
    dtype: what is computed in, whatever OpenVINO would take on this CPU; of an int8 graph, "int8", that is bfloat16 for
    what is not quantised where the CPU has instructions for it, else float32.
    """

    def __init__(self, graph: Callable[[Compute], Any], dtype: str = "float32"):
        self._graph = graph
        self._threads = torch.get_num_threads()
        self._core = _openvino().Core()
        if dtype == INT8:
            has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            dtype = "bfloat16" if has_bfloat16 else "float32"
        self._precision = PRECISIONS[dtype]
        self.counting = False
        """Whether graphs that are compiled from now on note the time of each operation, for `counted`."""
        self._compiled: dict[tuple[Compute, int], Any] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()

    def run(self, clip: np.ndarray, output: str, compute: Compute) -> np.ndarray:
        """See `Engine.run`."""
        request = self._request(compute, max(1, self._threads // torch.get_num_threads()))
        request.infer(graph_inputs(clip, padded_size(len(clip))), share_inputs=True)
        return np.array(request.get_tensor(output).data)

    def counted(self, compute: Compute) -> list[tuple[str, float]]:
        """Of the calling thread's last run at a point: operations by their names in the graph, and their seconds."""
        request = self._request(compute, max(1, self._threads // torch.get_num_threads()))
        return [(node.node_name, node.real_time.total_seconds()) for node in request.profiling_info]

    def _request(self, compute: Compute, streams: int) -> Any:
        """The calling thread's own."""
        if not hasattr(self._thread, "requests"):
            self._thread.requests = {}
        requests, key = self._thread.requests, (compute, streams)
        if key not in requests:
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(compute, streams)
                requests[key] = self._compiled[key].create_infer_request()
        return requests[key]

    def _compile(self, compute: Compute, streams: int) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
            "PERF_COUNT": self.counting,
        }
        return self._core.compile_model(self._graph(compute), "CPU", settings)


def padded_size(samples: int) -> int:
    """To how many samples a clip is filled with zeros: eight sizes from one length to twice that, whole seconds among
    them, since clips of a round length are what programs cut.

    OpenVINO makes code for every size of every tensor that it has not met, which takes longer than running a short clip
    does: with sizes as they come nearly every recording would pay that, so a fifteenth more sound is the better price.
    """
    units = -(-samples // SIZE_UNIT)
    step = 1 << max(0, units.bit_length() - 4)
    return -(-units // step) * step * SIZE_UNIT + ZEROS


def converted(model: SpeechModel, compute: Compute, for_int8: bool = False) -> Any:
    """The graph of a model at one operating point, an openvino.Model with an open number of samples.

    for_int8: written so that `quantized` can do the extractor too.
    """
    openvino = _openvino()
    samples = max(SAMPLE_RATE, min_samples(model.config.conv_layers, compute.squeeze))
    example = graph_inputs(np.random.default_rng(0).standard_normal(samples))
    with _discreet(), torch.no_grad():
        graph = openvino.convert_model(
            ClipGraph(model, compute, for_int8).eval(),
            example_input=tuple(map(torch.from_numpy, example)),
            input=[openvino.PartialShape([1, -1]), openvino.PartialShape([1])],
        )
    for output, name in zip(graph.outputs, output_names(model), strict=True):
        output.get_tensor().set_names({name})
    return graph


def quantized(graph: Any, clips: Sequence[np.ndarray], weight_bits: int) -> Any:
    """The graph with matrix products in int8, scales of activations fixed by clips as `clips.as_heard` gives them.

    The narrow convolutions of the extractor and that of positions are left as they are. No SmoothQuant: it would move
    scales from activations into weights, differently at each operating point, and so undo their sharing. weight_bits:
    8, or 7, see `Exported`.
    """
    nncf = _nncf()
    fix = None if weight_bits == 8 else nncf.OverflowFix.ENABLE
    smooth = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    advanced = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth, overflow_fix=fix)
    with _discreet():
        return nncf.quantize(
            graph,
            nncf.Dataset([graph_inputs(clip) for clip in clips]),
            subset_size=len(clips),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"], patterns=[r".*module\.(first|narrow)[./].*"]),
            advanced_parameters=advanced,
        )


def write(graphs: Iterator[tuple[str, Any]], folder: Path) -> dict[str, str]:
    """Write graphs by name, NAME.xml each, with one file of constants; gives the files by name."""
    files = {}
    with ConstantsFile(folder / CONSTANTS) as constants:
        for name, graph in graphs:
            files[name] = f"{name}.xml"
            _write(graph, folder / files[name], constants)
    return files


def _write(graph: Any, path: Path, constants: ConstantsFile) -> None:
    draft = path.with_suffix(".draft.xml"), path.with_suffix(".draft.bin")
    _openvino().serialize(graph, *map(str, draft))
    tree = ElementTree.parse(draft[0])
    data = np.memmap(draft[1], mode="r")
    for constant in tree.iterfind(".//layer[@type='Const']/data"):
        offset, size = int(constant.attrib["offset"]), int(constant.attrib["size"])
        constant.attrib["offset"] = str(constants.place(data[offset : offset + size].data))
    tree.write(path, encoding="utf-8", xml_declaration=True)
    for file in draft:
        file.unlink()


def reader(folder: Path, files: Mapping[str, str]) -> Callable[[Compute], Any]:
    """What reads the graphs of an exported folder, by operating point. Raises CheckpointError for damaged files."""

    def read(compute: Compute) -> Any:
        path = folder / files[str(compute)]
        try:
            with TemporaryDirectory() as unpacked:  # constants are mapped into memory only of files by name
                graph = path if path.suffix == ".xml" else Path(unpacked) / "graph.xml"
                if graph != path:
                    graph.write_bytes(read_graph(path))
                return _openvino().Core().read_model(graph, folder / CONSTANTS)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: not a graph that OpenVINO can read ({one_line(error)}); export the model again"
            ) from None

    return read


def _openvino() -> Any:
    try:
        with _discreet():
            import openvino
    except ImportError:
        raise MissingExtraError("runtime openvino", "openvino") from None
    return openvino


def _nncf() -> Any:
    try:
        with _discreet():
            import nncf
    except ImportError:
        raise MissingExtraError("quantising for OpenVINO", "openvino") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own set_log_level turns down the program's handlers too
    return nncf


@contextmanager
def _discreet() -> Iterator[None]:
    """Around calls of OpenVINO's and NNCF's tools: no warnings, no progress on standard output, no telemetry.

    Both send usage to their makers unless they believe to be in a CI. What is changed belongs to the process: one
    thread at a time.
    """
    with (
        _ONE_AT_A_TIME,
        warnings.catch_warnings(),
        redirect_stdout(StringIO()),
        mock.patch.dict(os.environ, {"CI": "true", "NNCF_CI": "1"}),
    ):
        warnings.simplefilter("ignore")
        yield
