"""A model in memory with what its outputs mean: what is read, and what is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sewkit.checkpoint.exported import Exported
from sewkit.compute import Compute, operating_points, resolve
from sewkit.curve import Curve
from sewkit.model import SpeechModel, build_shape
from sewkit.text import Alphabet


@dataclass(frozen=True)
class LoadedModel:
    """A model with what its outputs mean.

    model: in evaluation mode, float32, on the CPU; where `shape_only`, names and shapes, see `build_shape`.
    alphabet: the tokens of a CTC head; None without such a head, and where no file says them.
    labels: the classes of a classification head by id; None without one.
    label_column: the manifest column that the labels were taken from, such as "speaker"; None where no file says it.
    curve: what `sewkit sweep` measured of the model; None where nothing is stored with it.
    exported: what runs in place of `model`, where it was read from an exported folder.
    folder: where it was read from, that of the cache for a hub id; None for an original file.
    shape_only: of an exported model, and of one whose weights a runtime has taken over.
    stamp: of the latter, which files held the weights, see `weights_stamp`.
    """

    model: SpeechModel
    alphabet: Alphabet | None = None
    labels: tuple[str, ...] | None = None
    label_column: str | None = None
    curve: Curve | None = None
    exported: Exported | None = None
    folder: Path | None = None
    shape_only: bool = False
    stamp: tuple[tuple[str, int, int], ...] = ()

    def without_weights(self) -> LoadedModel:
        """The same for what needs none: memory then holds only what a runtime has made of them."""
        assert self.folder is not None, "weights are left out of what can be read again only"
        stamp = weights_stamp(self.folder)
        return replace(self, model=build_shape(self.model.config), shape_only=True, stamp=stamp)

    @property
    def compute_options(self) -> tuple[Compute, ...]:
        """The operating points of the model: the fastest of its measured curve first, without one by MACs."""
        if self.curve is None:
            return operating_points(self.model.config)
        return tuple(point.compute for point in self.curve.points)

    def resolve(self, request: Compute | str | None) -> Compute:
        """The operating point that a request means, see `sewkit.compute.resolve`; names go by the measured curve."""
        return resolve(self.model.config, request, None if self.curve is None else self.curve.names)


def weights_stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, time of change in nanoseconds, bytes) of a folder's files of weights: others are other weights."""
    files = (path for pattern in ("*.safetensors", "*.bin") for path in sorted(folder.glob(pattern)))
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
