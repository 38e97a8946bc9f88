"""What `sewkit bench speed` measures: sewkit's runtimes and their peers, each by name.

A system is built for one case, waveforms of one length, and is then a function of nothing that runs them and brings the
logits to the CPU. Peers are handed normalised input and run in what is their fastest setting for that: static shapes
where they like them, no attention mask. What is not installed, or has no such model, is `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any

import numpy as np
import torch

from sewkit.bench import exports
from sewkit.bench.subject import Subject, Unavailable
from sewkit.errors import UserError
from sewkit.processor import multiplies
from sewkit.recognizer import load

Forward = Callable[[], object]
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Case:
    """Waveforms (B, S) at 16 kHz, normalised to zero mean and unit variance, and where they are run."""

    subject: Subject
    waveforms: np.ndarray
    device: str
    threads: int

    def require_cpu(self) -> None:
        """Raises Unavailable for another device."""
        if self.device != "cpu":
            raise Unavailable(f"measured on a CPU only, not on {self.device}")

    def require(self, precision: str) -> None:
        """Raises Unavailable for one that the processor would take a hundred times as long for."""
        if precision == "bf16" and not multiplies(torch.bfloat16, torch.device(self.device)):
            raise Unavailable("this processor has no bfloat16")


@dataclass(frozen=True)
class System:
    """Something that runs a model. `build` raises Unavailable where it can't run the case."""

    name: str
    precision: str
    build: Callable[[Case], Forward]

    @property
    def is_peer(self) -> bool:
        """Whether it is not ours."""
        return not self.name.startswith("sewkit")

    @property
    def label(self) -> str:
        """Name and precision, by which it is chosen."""
        return f"{self.name} {self.precision}"


def choose(patterns: Sequence[str]) -> list[System]:
    """The systems whose labels match any of the patterns. Raises UserError for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatch(system.label, pattern) for system in SYSTEMS):
            known = ", ".join(system.label for system in SYSTEMS)
            raise UserError(f"no system matches {pattern!r}; expected one of: {known}")
    return [system for system in SYSTEMS if any(fnmatch(system.label, pattern) for pattern in patterns)]


# ---- ours ----------------------------------------------------------------------------------------------------------


def _sewkit(runtime: str, precision: str, case: Case) -> Forward:
    if runtime != "torch":
        case.require_cpu()
    source = exports.of_sewkit(case.subject, runtime, precision)
    asr = load(source, device=case.device, runtime=runtime, dtype=DTYPES.get(precision, "float32"))
    rows = list(case.waveforms)
    return lambda: asr.runtime.logits(rows, case.subject.point)


# ---- transformers --------------------------------------------------------------------------------------------------


def _transformers(attention: str, compiled: bool, precision: str, case: Case) -> Forward:
    model = exports.transformers_model(case.subject, attention).to(case.device, getattr(torch, DTYPES[precision]))
    inputs = torch.from_numpy(case.waveforms).to(case.device, model.dtype)
    run = torch.compile(model) if compiled else model

    @torch.inference_mode()
    def forward() -> np.ndarray:
        return run(inputs).logits.float().cpu().numpy()

    return forward


# ---- transformers' own export --------------------------------------------------------------------------------------


def _onnxruntime(precision: str, case: Case) -> Forward:
    case.require_cpu()
    exports.require("onnxruntime")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    path = exports.peer_onnx_int8(case.subject) if precision == "int8" else exports.peer_onnx(case.subject)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it takes the cores from the next system
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {exports.INPUT: case.waveforms})


def _openvino(precision: str, case: Case) -> Forward:
    case.require_cpu()
    exports.require("openvino")
    with exports.quietly():
        import openvino

    path = exports.peer_openvino_int8(case.subject) if precision == "int8" else exports.peer_onnx(case.subject)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(case.waveforms.shape))
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Where the CPU has bfloat16, that is what it would otherwise take for float32.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([case.waveforms], share_inputs=True, share_outputs=True)


# ---- others --------------------------------------------------------------------------------------------------------


def _ctranslate2(precision: str, case: Case) -> Forward:
    case.require_cpu()
    folder = exports.peer_ctranslate2(case.subject)
    import ctranslate2

    compute_type = "int8" if precision == "int8" else "float32"
    model = ctranslate2.models.Wav2Vec2(str(folder), compute_type=compute_type, intra_threads=case.threads)
    inputs = ctranslate2.StorageView.from_array(np.ascontiguousarray(case.waveforms[:, None]))
    return lambda: model.encode(inputs, to_cpu=True)


def _faster_whisper(case: Case) -> Forward:
    exports.require("faster_whisper")
    raise Unavailable("the weights of whisper tiny are not at hand")


SYSTEMS: tuple[System, ...] = (
    *(
        System(f"sewkit {runtime}", precision, partial(_sewkit, runtime, precision))
        for runtime, precisions in (
            ("torch", ("fp32", "bf16")),
            ("openvino", ("fp32", "bf16", "int8")),
            ("onnx", ("fp32", "int8")),
        )
        for precision in precisions
    ),
    *(
        System(f"transformers {attention}{how}", precision, partial(_transformers, attention, bool(how), precision))
        for precision in ("fp32", "bf16")
        for attention in ("eager", "sdpa")
        for how in ("", " compiled")
    ),
    *(System("onnxruntime", precision, partial(_onnxruntime, precision)) for precision in ("fp32", "int8")),
    *(System("openvino", precision, partial(_openvino, precision)) for precision in ("fp32", "bf16", "int8")),
    *(System("ctranslate2", precision, partial(_ctranslate2, precision)) for precision in ("fp32", "int8")),
    System("faster-whisper tiny", "int8", _faster_whisper),
)
"""All there are; a new one is a line here."""
