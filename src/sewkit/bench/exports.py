"""What systems need made of a model before they can run it; made once, kept in the subject's folder."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.subject import Subject, Unavailable
from sewkit.checkpoint import load_model
from sewkit.files import replacing
from sewkit.testing import synthetic_speech

INPUT = "input_values"
CALIBRATION_CLIPS, CALIBRATION_SECONDS = 16, 5.0


def require(package: str) -> None:
    """Raises Unavailable where a package is not installed."""
    if find_spec(package) is None:
        raise Unavailable(f"not installed: pip install {package.replace('_', '-')}")


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file, made under another name first if it is not there."""
    if not path.exists():
        with replacing(path) as draft:
            make(draft)
    return path


# ---- transformers --------------------------------------------------------------------------------------------------


def transformers_model(subject: Subject, attention: str) -> Any:
    """In evaluation mode. Raises Unavailable for an attention that its class does not have."""
    require("transformers")
    from transformers import AutoModelForCTC
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModelForCTC.from_pretrained(subject.peer, attn_implementation=attention).eval()
    except ValueError as error:
        if "attention implementation" in str(error):
            raise Unavailable(f"transformers has no {attention} attention for it") from None
        raise


class _Logits(nn.Module):
    """transformers' model as a function of one tensor."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, S) -> (B, T, V)."""
        return self.model(inputs).logits


def peer_onnx(subject: Subject) -> Path:
    """transformers' model by the exporter that its own tools use, batch and time dynamic."""
    require("onnx")

    def make(draft: Path) -> None:
        example = torch.zeros(1, SAMPLE_RATE)
        axes = {INPUT: {0: "batch", 1: "samples"}, "logits": {0: "batch", 1: "frames"}}
        try:
            model = transformers_model(subject, "sdpa")
        except Unavailable:
            model = transformers_model(subject, "eager")
        with quietly(), torch.inference_mode():
            torch.onnx.export(
                _Logits(model),
                (example,),
                str(draft),
                input_names=[INPUT],
                output_names=["logits"],
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )

    return _once(subject.folder / "peer.onnx", make)


def peer_onnx_int8(subject: Subject) -> Path:
    """The same, its matrix products quantised as they run (onnxruntime's dynamic quantisation)."""
    require("onnxruntime")
    source = peer_onnx(subject)

    def make(draft: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with quietly():
            quantize_dynamic(source, draft, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)

    return _once(subject.folder / "peer-int8.onnx", make)


def peer_openvino_int8(subject: Subject) -> Path:
    """The same, quantised by NNCF with its preset for transformers."""
    require("openvino")
    require("nncf")
    source = peer_onnx(subject)
    path = subject.folder / "peer-int8.xml"
    if not path.exists():
        with quietly():
            import nncf
            import openvino

            clips = [normalized(clip)[None] for clip in calibration_clips()]
            model = nncf.quantize(
                openvino.Core().read_model(source),
                nncf.Dataset(clips),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(clips),
            )
            openvino.save_model(model, path, compress_to_fp16=False)
    return path


def peer_ctranslate2(subject: Subject) -> Path:
    """CTranslate2's own conversion. Raises Unavailable for what it cannot convert."""
    require("ctranslate2")
    import ctranslate2

    path = subject.folder / "peer-ctranslate2"
    if not path.exists():
        try:
            ctranslate2.converters.TransformersConverter(str(subject.peer)).convert(str(path))
        except (AttributeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Unavailable(f"its converter knows W2V2 with layer norm in the extractor only ({reason})") from None
    return path


def normalized(waveform: np.ndarray) -> np.ndarray:
    """(num_samples,) float32 with zero mean and unit variance."""
    return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)


# ---- ours ----------------------------------------------------------------------------------------------------------


def of_sewkit(subject: Subject, runtime: str, precision: str) -> Path:
    """What `sewkit.load` takes for a runtime and a precision: the model, or its export at the subject's point."""
    if runtime == "torch":
        if precision == "int8":
            raise Unavailable("the PyTorch runtime has no int8")
        return subject.model
    if runtime not in ("openvino", "onnx"):
        raise Unavailable(f"runtime {runtime!r} is not known; expected torch, openvino or onnx")
    for package in ("openvino", "nncf") if runtime == "openvino" else ("onnx", "onnxruntime"):
        require(package)
    from sewkit.runtime.export import export, new_folder

    is_int8 = precision == "int8"
    folder = subject.folder / f"{runtime}-{'int8' if is_int8 else 'fp32'}"
    if not folder.exists():
        clips = list(calibration_clips()) if is_int8 else None
        loaded = load_model(subject.model)
        points = [subject.point] if loaded.model.config.is_stochastic else None
        with new_folder(folder) as draft:
            export(loaded, draft, "openvino" if runtime == "openvino" else "onnx", int8_clips=clips, points=points)
    return folder


def calibration_clips() -> Iterator[np.ndarray]:
    """What int8 is calibrated on where only time is measured: synthetic speech."""
    samples = int(CALIBRATION_SECONDS * SAMPLE_RATE)
    return (synthetic_speech(samples, seed) for seed in range(CALIBRATION_CLIPS))


@contextmanager
def quietly() -> Iterator[None]:
    """Around others' tools: no warnings, no logs, no output, no word to their makers (unless in a CI)."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            mock.patch.dict(os.environ, {"CI": "true", "NNCF_CI": "1"}),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
