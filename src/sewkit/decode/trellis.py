"""The best CTC path through a given label sequence (Viterbi), exact, in memory that grows with the frames alone.

The trellis of N labels has a blank before each label and one after the last. An hour of speech has 180,000 frames and
some 50,000 labels: its trellis, let alone its back-pointers, is never built. Instead

- only a WINDOW of labels around the best one is followed. What lies outside is not dropped but replaced by one cell on
  either side that costs nothing to stay in, a bound on everything that could happen there. If the best path keeps out
  of these cells, no path through the whole trellis is better; if it does not, the window is made wider;
- scores are kept at the start of each BLOCK of frames only. Back-pointers are found anew for one block at a time, the
  last first, and only for the labels that can still reach the block's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WINDOW = 2048
"""Labels followed at first: over two minutes of speech."""
WIDEST_WINDOW = 32_768
"""Labels followed at last; a text of no more is always aligned."""
BLOCKS_PER_WINDOW = 8
"""A block has this many times fewer frames than the window has labels, so that a path stays within a window's half."""
BLOCK_CELLS = WINDOW * WINDOW // BLOCKS_PER_WINDOW
"""So many has a block where the window holds all labels: a sentence is one block."""


class LostPathError(Exception):
    """The best path leaves the window near a frame."""

    def __init__(self, frame: int):
        super().__init__(f"the path leaves the window near frame {frame}")
        self.frame = frame


def best_path(
    log_probs: np.ndarray, labels: np.ndarray, *, blank: int = 0, window: int = WINDOW, widest: int = WIDEST_WINDOW
) -> np.ndarray:
    """Which label each frame of the most probable CTC path stands for.

    log_probs: (T, V) float32, finite. labels: (N,) column numbers, N > 0, none the blank's, for which T frames must
    suffice (`lengths.needed_frames`). Returns (T,) int32: position in `labels`, -1 on blanks. Of equal paths any.

    Time is T x window, or T x N if that is less. Memory is T x (4 V + 130) bytes and a little that the widest window
    bounds. Raises LostPathError if the path strays further than the widest window.
    """
    trellis = _Trellis.of(log_probs, labels, blank)
    while True:
        try:
            return _follow(trellis, min(window, len(labels) + 1))
        except LostPathError:
            if window >= min(widest, len(labels) + 1):
                raise
            window = min(4 * window, widest)


@dataclass(frozen=True)
class _Trellis:
    """Cell i < N holds a blank and then label i; cell N the last blank and a label that is never reached.

    Scores are relative to each frame's best label, so none is above 0, and staying outside the window scores 0.
    """

    scores: np.ndarray  # (T, V + 1); the last column is that of the label that is never reached
    labels: np.ndarray  # (N + 1,)
    skips: np.ndarray  # (N + 1,): 0 where a label may follow the one before without a blank, else -inf
    blank: int

    @classmethod
    def of(cls, log_probs: np.ndarray, labels: np.ndarray, blank: int) -> _Trellis:
        num_frames, never = log_probs.shape
        scores = np.full((num_frames, never + 1), -np.inf, np.float32)
        np.subtract(log_probs, log_probs.max(1, keepdims=True), out=scores[:, :-1])
        repeats = np.r_[False, labels[1:] == labels[:-1], False]
        return cls(scores, np.r_[labels, never], np.where(repeats, -np.inf, 0.0), blank)


class _Checkpoint(NamedTuple):
    """The window's first cell and scores before a frame. `labels[0]` bounds what lies before the window."""

    frame: int
    first: int
    labels: np.ndarray  # (1 + window,)
    blanks: np.ndarray  # (window,)


def _follow(trellis: _Trellis, window: int) -> np.ndarray:
    num_frames, last = len(trellis.scores), len(trellis.labels) - 1
    block = BLOCK_CELLS // window if window > last else max(window // BLOCKS_PER_WINDOW, 16)
    path = np.full(num_frames, -1, np.int32)
    end, cell, is_label = num_frames, last, None
    for checkpoint in reversed(_forward(trellis, window, block)):
        if not checkpoint.first <= cell < checkpoint.first + window:
            raise LostPathError(end)  # came from ahead of the window
        cell, is_label = _trace_block(trellis, checkpoint, end, cell, is_label, path)
        end = checkpoint.frame
    return path


def _forward(trellis: _Trellis, window: int, block: int) -> list[_Checkpoint]:
    """Scores before each block."""
    labels = np.full(1 + window, -np.inf)
    blanks = np.full(window, -np.inf)
    blanks[0] = 0.0
    checkpoints, ahead = [_Checkpoint(0, 0, labels, blanks)], -np.inf
    for end in range(block, len(trellis.scores), block):
        labels, blanks, ahead = _advance(trellis, checkpoints[-1], end, ahead)
        now = _Checkpoint(end, checkpoints[-1].first, labels, blanks)
        checkpoints.append(_recentred(now, len(trellis.labels), ahead))
    return checkpoints


def _advance(trellis: _Trellis, at: _Checkpoint, end: int, ahead: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores before frame `end`, and the bound on what lies ahead of the window."""
    window = slice(at.first, at.first + len(at.blanks))
    ids, skips = trellis.labels[window], trellis.skips[window]
    labels, blanks = at.labels.copy(), at.blanks.copy()
    new_blanks, best, emitted = np.empty_like(blanks), np.empty_like(blanks), np.empty(len(blanks), np.float32)
    before, here = labels[:-1], labels[1:]
    is_last = window.stop >= len(trellis.labels)
    for scores in trellis.scores[at.frame : end]:
        if not is_last:
            ahead = max(ahead, here[-1])
        np.maximum(blanks, before, out=new_blanks)
        np.add(before, skips, out=best)
        np.maximum(best, blanks, out=best)
        np.maximum(best, here, out=best)
        np.add(best, scores.take(ids, out=emitted, mode="clip"), out=here)
        new_blanks += scores[trellis.blank]
        blanks, new_blanks = new_blanks, blanks
    return labels, blanks, ahead if is_last else max(ahead, here[-1])


def _recentred(at: _Checkpoint, num_cells: int, ahead: float) -> _Checkpoint:
    """Move the window so that the best cell is in its middle, but not back."""
    window = len(at.blanks)
    best = at.first + int(np.maximum(at.blanks, at.labels[1:]).argmax())
    shift = min(best - window // 2, num_cells - window) - at.first
    if shift <= 0:
        return at
    left_behind = max(at.labels[: shift + 1].max(), at.blanks[:shift].max())
    new = np.full(shift, ahead)
    labels = np.concatenate([[left_behind], at.labels[shift + 1 :], new])
    return _Checkpoint(at.frame, at.first + shift, labels, np.concatenate([at.blanks[shift:], new]))


def _trace_block(
    trellis: _Trellis, at: _Checkpoint, end: int, cell: int, is_label: bool | None, path: np.ndarray
) -> tuple[int, bool]:
    """Write the path of the frames from `at` to `end`, which it leaves in a cell, into `path`; gives the cell before.

    is_label: whether it leaves on the cell's label; None at the end of all: in the last blank or on the label before.
    A path moves on by at most one cell a frame: nothing further back can matter, nor what comes after.
    """
    first = max(at.first, cell - (end - at.frame) - (is_label is None))
    near = slice(first - at.first, cell - at.first + 1)
    labels = at.labels[near.start : near.stop + 1].copy()
    blanks = at.blanks[near].copy()
    if first > at.first:
        labels[0] = -np.inf  # not its score in later frames; it cannot reach the end in time anyway
    steps, blanks = _back_pointers(trellis, slice(at.frame, end), slice(first, cell + 1), labels, blanks)
    if is_label is None:
        is_label = bool(labels[-2] > blanks[-1])
        cell -= is_label
    for frame in range(end - 1, at.frame - 1, -1):
        place = cell - first
        if is_label:
            path[frame] = cell
        if steps.from_label[is_label][frame - at.frame, place]:
            cell, is_label = cell - 1, True
        elif is_label and steps.from_blank[frame - at.frame, place]:
            is_label = False
        if cell < first:
            raise LostPathError(frame)  # came from behind the window
    return cell, is_label


class _Steps(NamedTuple):
    """Where each state came from, (frames, cells) bool each; from itself where neither is True."""

    from_label: tuple[np.ndarray, np.ndarray]  # from the label before: of blanks, of labels
    from_blank: np.ndarray  # a label from its own blank


def _back_pointers(
    trellis: _Trellis, frames: slice, cells: slice, labels: np.ndarray, blanks: np.ndarray
) -> tuple[_Steps, np.ndarray]:
    """Scores (1 + cells,) and (cells,) before the frames -> back-pointers, and the blanks' scores after the frames.

    The labels' scores after them take the place of those before; those of the blanks are overwritten.
    """
    ids, skips = trellis.labels[cells], trellis.skips[cells]
    shape = (frames.stop - frames.start, len(blanks))
    steps = _Steps((np.empty(shape, bool), np.empty(shape, bool)), np.empty(shape, bool))
    before, here = labels[:-1], labels[1:]
    skipped, new_blanks, emitted = np.empty_like(blanks), np.empty_like(blanks), np.empty(len(blanks), np.float32)
    for row, scores in enumerate(trellis.scores[frames]):
        np.add(before, skips, out=skipped)
        np.maximum(blanks, before, out=new_blanks)
        np.greater(before, blanks, out=steps.from_label[False][row])
        np.greater(blanks, here, out=steps.from_blank[row])
        # `before` and `here` overlap, so `before` is not used from here on.
        np.maximum(here, blanks, out=here)
        np.greater(skipped, here, out=steps.from_label[True][row])
        np.maximum(here, skipped, out=here)
        here += scores.take(ids, out=emitted, mode="clip")
        new_blanks += scores[trellis.blank]
        blanks, new_blanks = new_blanks, blanks
    return steps, blanks
