"""Reading the audio of rows in the middle of a run, where a bad file must not end it."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from sewkit.audio import AudioError
from sewkit.data.manifest import ManifestError, Utterance

MAX_FAILURES = 200
"""Recordings in a row that cannot be read: then it is not the files, and the run ends."""

logger = logging.getLogger(__name__)


class Reader:
    """Reads rows; what cannot be read is left out, named once in the log, and counted in `skipped`.

    A row is left out wherever it comes up, so a resumed run sees the same batches.
    """

    def __init__(self, rows: Sequence[Utterance]) -> None:
        self.rows = rows
        self.unreadable: set[int] = set()
        self._failures = 0

    @property
    def skipped(self) -> int:
        """Rows that this process could not read so far."""
        return len(self.unreadable)

    def read(
        self, indices: np.ndarray, load: Callable[[Utterance, int], np.ndarray]
    ) -> tuple[list[int], list[Utterance], list[np.ndarray]]:
        """(positions in `indices`, rows, waveforms) of what `load(row, position)` can read."""
        positions, rows, waveforms = [], [], []
        for position, index in enumerate(indices.tolist()):
            try:
                row = self.rows[index]
                waveform = load(row, position)
            except (AudioError, ManifestError, OSError) as error:
                self._fail(index, error)
                continue
            self._failures = 0
            positions.append(position)
            rows.append(row)
            waveforms.append(waveform)
        return positions, rows, waveforms

    def _fail(self, index: int, error: Exception) -> None:
        self._failures += 1
        if index not in self.unreadable:
            self.unreadable.add(index)
            logger.warning("left out: %s", error)
        if self._failures >= MAX_FAILURES:
            raise ManifestError(
                f"{self._failures} recordings in a row cannot be read, the last: {error}; is the data still there?"
            )
