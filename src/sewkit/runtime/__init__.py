"""Ways to run a model: one contract, numpy in, numpy out."""

from sewkit.runtime.base import Runtime, batches_by_size

__all__ = ["Runtime", "batches_by_size"]
