"""Ways to run a model: one contract, numpy in, numpy out."""

from sewkit.runtime.base import Runtime, SplitRuntime, batches_by_size

__all__ = ["Runtime", "SplitRuntime", "batches_by_size"]
