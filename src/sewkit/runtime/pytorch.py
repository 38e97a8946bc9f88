"""The PyTorch runtime: any device, the reference that other runtimes are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sewkit.compute import Compute, resolve
from sewkit.errors import UserError
from sewkit.model import SpeechModel
from sewkit.runtime.folding import prepare


def pick_device(device: str | None) -> torch.device:
    """The device asked for, or the best there is. Raises UserError if it is not there."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):  # and then every kind that torch was ever written for
            reason = "no such kind; expected cpu, cuda, cuda:1 and so on"
        raise UserError(
            f"device {device!r} can't be used here ({reason}); leave it out to use the best there is"
        ) from None
    return torch.device(device)


class TorchRuntime:
    """Runs a `SpeechModel` in inference mode.

    In bfloat16 the sound and the statistics of its group norm stay in float32; what shares a batch may change a logit
    by what rounding does to it, 2 % of the logits' norm.
    """

    def __init__(self, model: SpeechModel, device: torch.device, dtype: torch.dtype = torch.float32):
        self.config = model.config
        self.model = prepare(model.eval().to(device, dtype))
        self.device = device
        self.dtype = dtype

    @property
    def workers(self) -> int:
        """Calls side by side that use the device well: on a CPU one a thread, each on a thread of its own.

        On a GPU two: while it computes one batch, the next is handed over, and the last one's results are fetched.
        """
        if self.device.type == "cpu":
            return torch.get_num_threads()
        return 2 if self.device.type == "cuda" else 1

    @torch.inference_mode()
    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.logits`."""
        return self._rows(*self.model(*self._batch(waveforms), compute))

    @torch.inference_mode()
    def features(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """See `SplitRuntime.features`."""
        features, lengths = self.model.extract(*self._batch(waveforms))
        rows = self.model.feature_norm(features)
        return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]

    @torch.inference_mode()
    def logits_from_features(self, features: Sequence[Tensor], compute: Compute | None = None) -> list[np.ndarray]:
        """See `SplitRuntime.logits_from_features`."""
        assert self.model.head is not None
        lengths = torch.tensor([len(row) for row in features], device=self.device)
        padded = pad_sequence(list(features), batch_first=True)
        missing = resolve(self.config, compute).squeeze - padded.shape[1]  # at least one squeezed frame
        encoded = self.model.contextualize(F.pad(padded, (0, 0, 0, max(0, missing))), lengths, compute)
        return self._rows(self.model.head(encoded.frames), encoded.lengths)

    @torch.inference_mode()
    def class_scores(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.class_scores`."""
        scores, _ = self.model(*self._batch(waveforms), compute)
        return list(scores.float().cpu().numpy())

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.encode`."""
        encoded = self.model.encode(*self._batch(waveforms), compute)
        return self._rows(encoded.frames, encoded.lengths)

    def _batch(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        rows = [torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)) for waveform in waveforms]
        return self._handed_over(pad_sequence(rows, batch_first=True)), self._handed_over(lengths)

    def _handed_over(self, x: Tensor) -> Tensor:
        """On the device. To a GPU it is copied from memory that stays in place, so that nobody waits for it."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x.to(self.device)

    def _rows(self, output: Tensor, lengths: Tensor) -> list[np.ndarray]:
        rows = output.float().cpu().numpy()
        return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
