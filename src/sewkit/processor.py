"""What the processor computes well, which precisions depend on."""

import platform

import torch

_ASKED = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """False for a half precision on a CPU without instructions for it: products are a loop there, up to a hundred times
    slower than in float32."""
    return device.type != "cpu" or dtype not in _ASKED or bool(getattr(torch.ops.mkldnn, _ASKED[dtype])())


def adds_int8_exactly() -> bool:
    """Whether products of full-range int8 numbers add up right: an x86 processor without VNNI adds them in pairs of 16
    bits, which two large ones exceed."""
    return platform.machine().lower() not in ("x86_64", "amd64") or torch.cpu._is_vnni_supported()
