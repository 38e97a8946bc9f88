"""Any input to mono float32 at 16 kHz: path, bytes, file object or array, whole or as a stream of blocks.

decoding.py reads the formats; here channels are averaged and soxr converts the rate. Everything is decoded, checked
and converted block by block, so ten hours of audio need no more memory than ten minutes; `load_audio` only joins
the blocks. A file that ends early or holds unusable samples is an error, never a shorter result.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from sewkit.decoding import (
    DECODE_VALUES,
    SOUNDFILE_SLACK,
    AudioError,
    Decoded,
    FileSource,
    as_float32,
    cut,
    decode,
    decode_segment,
    file_seconds,
)

AudioSource: TypeAlias = FileSource | np.ndarray

SAMPLE_RATE = 16_000  # Hz, of everything this module returns
RESAMPLE_QUALITY = "HQ"  # soxr: 20 bit, pass band to 0.91 of the lower Nyquist frequency
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a rate outside is a damaged header

_LIBSNDFILE = ("wav", "wave", "flac", "ogg", "oga", "opus", "mp3", "aiff", "aif", "au", "caf", "w64", "sph")
_CONTAINERS = ("m4a", "mp4", "aac", "webm", "mkv", "mov")
AUDIO_SUFFIXES = frozenset(f".{suffix}" for suffix in (*_LIBSNDFILE, *_CONTAINERS))
"""What is taken from a folder; a file named by itself may be called anything."""


def source_name(source: AudioSource) -> str:
    """The name of `source` for messages: a path, a file object's name, '<bytes>', '<array>' or '<file>'."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    name = getattr(source, "name", None)  # of a temporary file: its descriptor, a number
    return name if isinstance(name, str) else "<file>"


def load_audio(source: AudioSource) -> np.ndarray:
    """All samples of `source`: float32 of shape (num_samples,), mono at 16 kHz. See `stream_audio`."""
    return np.concatenate(list(stream_audio(source)))


def stream_audio(source: AudioSource, block_seconds: float = 10.0) -> Iterator[np.ndarray]:
    """The samples of `source` in blocks of `block_seconds`, the last one shorter.

    A file object is read from its start and left open; one that cannot seek, such as a pipe, is first copied
    to a temporary file. An array must be 1-D and at 16 kHz: floats are taken as they are, integers are scaled
    to [-1, 1).

    Yields:
        New float32 arrays of shape (num_samples,), mono at 16 kHz.

    Raises:
        AudioError: at the first block, or at the place where the audio turns out to be unusable.
        TypeError: `source` is none of the kinds above; at the first block.
        ValueError: `block_seconds` is not positive.
    """
    if not block_seconds > 0:
        raise ValueError(f"block_seconds must be positive, got {block_seconds}")
    name = source_name(source)
    decoded = _array_blocks(source, name) if isinstance(source, np.ndarray) else decode(source, name)
    pieces = _resample(_average_channels(decoded, name), name)
    return _reblock(pieces, max(1, round(block_seconds * SAMPLE_RATE)), name)


def load_segment(
    source: AudioSource, start: float = 0.0, seconds: float | None = None, channel: int | None = None
) -> np.ndarray:
    """`seconds` of `source` from `start` on, or all to the end: float32 (num_samples,), mono at 16 kHz.

    Only the segment is read where the format can seek exactly (wav, flac, aiff and their like); ogg, mp3 and
    containers are decoded from their start, up to its end. `channel`, counted from 0, is taken alone.

    Raises:
        AudioError: the audio is unusable, or ends more than 0.1 s before the segment does.
        TypeError: `source` is of no kind that `stream_audio` takes.
    """
    name = source_name(source)
    blocks = _segment_blocks(source, name, start, seconds)
    if channel is not None:
        blocks = _pick_channel(blocks, channel, name)
    return np.concatenate(list(_resample(_average_channels(blocks, name), name)))


def audio_seconds(source: AudioSource) -> float:
    """Duration by the header of `source`; what has none, and containers, are decoded. Raises AudioError."""
    name = source_name(source)
    if isinstance(source, np.ndarray):
        return sum(len(block) / rate for rate, block in _array_blocks(source, name))
    return file_seconds(source, name)


class LiveSound:
    """One signal that comes in blocks of any size -> mono float32 at 16 kHz.

    Raises AudioError for a sample rate that no recording has.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE, name: str = "<stream>"):
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise AudioError(name, f"a sample rate of {sample_rate} Hz; expected one from {MIN_RATE} to {MAX_RATE}")
        self.name = name
        self._convert = _rate_converter(sample_rate)

    def feed(self, block: np.ndarray) -> np.ndarray:
        """(num_samples,) floats, or integers of full range -> the samples at 16 kHz that are ready, a new array.

        Raises AudioError for another shape or type, NaN and infinity.
        """
        if block.ndim != 1:
            raise AudioError(self.name, f"a block of shape {block.shape}; expected (num_samples,), one channel")
        samples = as_float32(block, self.name)
        if not np.isfinite(samples).all():
            raise AudioError(self.name, "a block holds NaN or infinite samples; expected numbers from -1 to 1")
        return self._convert(samples, False)

    def finish(self) -> np.ndarray:
        """What is left at the end."""
        return self._convert(np.zeros(0, np.float32), True)


# The pipeline: decoded blocks -> mono -> 16 kHz -> blocks of the length asked for


def _average_channels(blocks: Decoded, name: str) -> Decoded:
    num_frames = 0
    for rate, block in blocks:
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            value = block[first][~np.isfinite(block[first])][0]
            seconds = (num_frames + first) / rate
            raise AudioError(name, f"the sample at {seconds:.3f} s is {value}; export the audio again without it")
        num_frames += len(block)
        # In float64, because a sum of channels may exceed the range of float32.
        yield rate, block.mean(axis=1, dtype=np.float64).astype(np.float32)


def _resample(blocks: Decoded, name: str) -> Iterator[np.ndarray]:
    first_rate = None
    for rate, block in blocks:
        if first_rate is None:
            if not MIN_RATE <= rate <= MAX_RATE:
                problem = f"its header announces a sample rate of {rate} Hz, outside {MIN_RATE} to {MAX_RATE}"
                raise AudioError(name, f"{problem}; repair the header or encode it again")
            first_rate, convert = rate, _rate_converter(rate)
        if rate != first_rate:
            problem = f"its sample rate changes from {first_rate} to {rate} Hz midway"
            raise AudioError(name, f"{problem}; encode it again at one rate")
        yield convert(block, False)
    if first_rate is not None:
        yield convert(np.zeros(0, np.float32), True)


def _rate_converter(rate: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """A function of (block, last) that continues one signal from call to call."""
    if rate == SAMPLE_RATE:
        return lambda block, last: block
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, num_channels=1, dtype="float32", quality=RESAMPLE_QUALITY)
    return stream.resample_chunk


def _reblock(pieces: Iterable[np.ndarray], block_samples: int, name: str) -> Iterator[np.ndarray]:
    pending: list[np.ndarray] = []
    num_pending, is_empty = 0, True
    for piece in pieces:
        while num_pending + len(piece) >= block_samples:
            cut = block_samples - num_pending
            yield np.concatenate([*pending, piece[:cut]])
            pending, num_pending, is_empty = [], 0, False
            piece = piece[cut:]
        pending.append(piece)
        num_pending += len(piece)
    if num_pending:
        yield np.concatenate(pending)
    elif is_empty:
        raise AudioError(name, "the audio holds no samples; record or export it again")


# Arrays


def _array_blocks(array: np.ndarray, name: str) -> Decoded:
    if array.ndim != 1:
        problem = f"an array of shape {array.shape}; expected (num_samples,), mono at {SAMPLE_RATE} Hz"
        raise AudioError(name, f"{problem}: average the channels and drop the other axes first")
    for start in range(0, len(array), DECODE_VALUES):
        yield SAMPLE_RATE, as_float32(array[start : start + DECODE_VALUES], name)[:, None]


# Segments


def _segment_blocks(source: AudioSource, name: str, start: float, seconds: float | None) -> Decoded:
    """The decoded blocks of a segment; AudioError at its end if there is less than asked for."""
    wanted, found, rate = 0, 0, 0
    for rate, block in _cut_or_decode(source, name, start, seconds):
        wanted = 1 if seconds is None else round(seconds * rate)
        found += len(block)
        yield rate, block
    if not found or found < wanted - SOUNDFILE_SLACK * rate:
        end = f"{start + found / rate:.2f} s" if found else f"or before {start:.2f} s"
        until = "" if seconds is None else f" to {start + seconds:.2f} s"
        raise AudioError(name, f"it ends at {end}, the segment goes from {start:.2f} s{until}; correct the manifest")


def _cut_or_decode(source: AudioSource, name: str, start: float, seconds: float | None) -> Decoded:
    if isinstance(source, np.ndarray):
        return cut(_array_blocks(source, name), start, seconds)
    return decode_segment(source, name, start, seconds)


def _pick_channel(blocks: Decoded, channel: int, name: str) -> Decoded:
    for rate, block in blocks:
        if not 0 <= channel < block.shape[1]:
            raise AudioError(name, f"it has {block.shape[1]} channels, no number {channel} counted from 0")
        yield rate, block[:, channel : channel + 1]
