"""Files of sound to blocks of samples, as they are: any rate, any number of channels.

soundfile decodes wav, flac, ogg and mp3 (and what else libsndfile knows); PyAV, the extra `audio`, decodes
mp4, m4a, webm and aac. A file that ends early is an error, never a shorter result.
"""

import codecs
import importlib.util
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from sewkit.errors import UserError

FileSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
Decoded: TypeAlias = Iterator[tuple[int, np.ndarray]]  # (rate in Hz, block of shape (num_frames, num_channels))

DECODE_VALUES = 2**16  # decoded at once, all channels together
SPOOL_BYTES = 16 * 2**20  # of a pipe held in memory; the rest goes to disk
# How much less than announced a whole file may hold: padding and odd chunk sizes in the headers libsndfile
# reads; edit lists and codec delay in containers.
SOUNDFILE_SLACK, CONTAINER_SLACK = 0.1, 1.0  # seconds
# Data sizes from here on are what a recorder writes into a wav header when it does not know the length yet.
UNKNOWN_WAV_BYTES = 2**31 - 2**16
SEEKABLE = frozenset(("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"))
"""soundfile's formats in which a place is found to the sample."""


class AudioError(UserError):
    """Audio that cannot be used: one line with its name, what is wrong and what to do about it."""

    def __init__(self, source: str, problem: str):
        super().__init__(source, problem)
        self.source = source
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


def decode(source: FileSource, name: str) -> Decoded:
    """The blocks of a file: float32 of full scale 1. `name` is for messages.

    Raises AudioError at the first block, or where the file turns out to be damaged; TypeError for a source of
    another kind.
    """
    with _open(source, name) as file:
        head = _first_frame(file)
        if not head:
            raise AudioError(name, "the file is empty (0 bytes); record or download it again")
        container = _container(head)
        yield from _decode_container(file, container, name) if container else _decode_soundfile(file, name)


def decode_segment(source: FileSource, name: str, start: float, seconds: float | None) -> Decoded:
    """`decode` of a segment only, or all to the end; less where the file ends before.

    What comes before is skipped where the format can seek to the sample, and decoded where it cannot.
    """
    import soundfile

    with _open(source, name) as file:
        head = _first_frame(file)
        if head and not _container(head):
            with _sound_file(soundfile, file, name) as sound:
                if sound.format in SEEKABLE and sound.frames < 2**62:
                    yield sound.samplerate, _read_frames(sound, start, seconds, name)
                    return
            file.seek(0)
        yield from cut(decode(file, name), start, seconds)


def cut(blocks: Decoded, start: float, seconds: float | None) -> Decoded:
    """Only the frames of a segment; stops at its end."""
    position = 0
    for rate, block in blocks:
        first = round(start * rate)
        end = None if seconds is None else first + round(seconds * rate)
        piece = block[max(first - position, 0) : None if end is None else max(end - position, 0)]
        position += len(block)
        if len(piece):
            yield rate, piece
        if end is not None and position >= end:
            return


def file_seconds(source: FileSource, name: str) -> float:
    """Duration by the header; what has none, and containers, are decoded. Raises AudioError."""
    import soundfile

    with _open(source, name) as file:
        head = _first_frame(file)
        if head and not _container(head):
            with _sound_file(soundfile, file, name) as sound:
                announced, seconds = _announced_seconds(sound, file), sound.frames / sound.samplerate
            if announced is not None and seconds < announced - SOUNDFILE_SLACK:
                raise _ends_early(name, seconds, announced)
            if announced:
                return seconds
        file.seek(0)
        return sum(len(block) / rate for rate, block in decode(file, name))


# Opening


@contextmanager
def _open(source: Any, name: str) -> Iterator[BinaryIO]:
    """A seekable file at its start; what is opened here is closed again, the caller's file object is not."""
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            file: Any = stack.enter_context(_open_path(source, name))
        elif isinstance(source, bytes | bytearray | memoryview):
            file = io.BytesIO(source)
        elif hasattr(source, "read"):
            file = source
        else:
            kind = type(source).__name__
            raise TypeError(f"audio must be a path, bytes, a binary file object or a numpy array, not {kind}")
        if isinstance(file.read(0), str):
            raise AudioError(name, "this file object is open as text; open it with mode 'rb'")
        yield file if _rewind(file) else stack.enter_context(_spool(file, name))


def _open_path(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        problem = "no such file; check the path"
    except IsADirectoryError:
        problem = "this is a folder; name the audio files in it"
    except PermissionError:
        problem = "no permission to read it; change its mode or owner"
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        problem = f"it cannot be opened ({getattr(error, 'strerror', None) or error}); check the path"
    raise AudioError(name, problem)


def _rewind(file: BinaryIO) -> bool:
    try:
        file.seek(0)
    except (AttributeError, OSError):
        return False
    return True


def _spool(file: BinaryIO, name: str) -> BinaryIO:
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 (the caller closes it)
    try:
        shutil.copyfileobj(file, spool)
        spool.seek(0)
    except OSError as error:
        spool.close()
        problem = f"it cannot be copied to a temporary file ({error.strerror or error})"
        raise AudioError(name, f"{problem}; make room in {tempfile.gettempdir()} or pass a file") from error
    return spool  # type: ignore[return-value]


# Decoding


def _sound_file(soundfile: Any, file: BinaryIO, name: str) -> Any:
    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless .raw file
        raise AudioError(name, _unreadable(file, error)) from error


def _read_frames(sound: Any, start: float, seconds: float | None, name: str) -> np.ndarray:
    """(num_frames, num_channels) float32, fewer than asked for where the file ends before."""
    import soundfile

    rate = sound.samplerate
    first = min(round(start * rate), sound.frames)
    try:
        sound.seek(first)
        return sound.read(-1 if seconds is None else round(seconds * rate), "float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _ends_early(name, first / rate, sound.frames / rate) from error


def _first_frame(file: BinaryIO) -> bytes:
    """The first bytes behind any ID3v2 tags, which may hold a cover picture; `file` is left at its start."""
    start, head = 0, file.read(64)
    while head[:3] == b"ID3":
        start += 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        file.seek(start)
        head = file.read(64) or b"\0"
    file.seek(0)
    return head


def _container(head: bytes) -> str | None:
    """ffmpeg's name of the format if PyAV has to read it, by its first bytes; None leaves it to soundfile.

    ffmpeg is told the format and never guesses: a playlist in disguise would make it open other files.
    """
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:2] < b"\xff\xe0":
        return None
    # An MPEG frame: of aac if its layer is 0, else of mp3.
    if head[1] & 6 == 0:
        return "aac"
    # libsndfile estimates the length of an mp3 without a length header from its first frames, and stops there.
    return None if _announces_length(head) or not importlib.util.find_spec("av") else "mp3"


def _announces_length(first_mp3_frame: bytes) -> bool:
    return any(tag in first_mp3_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _decode_soundfile(file: BinaryIO, name: str) -> Decoded:
    import soundfile

    sound = _sound_file(soundfile, file, name)
    # soundfile seeks after every read of what it takes for seekable: libmpg123 then decodes again around the
    # place, with complaints on stderr, and libsndfile refuses to on flac of unknown length.
    sound.seekable = lambda: False
    with sound:
        rate, announced, num_frames = sound.samplerate, _announced_seconds(sound, file), 0
        try:
            while len(block := sound.read(max(1, DECODE_VALUES // sound.channels), "float32", always_2d=True)):
                num_frames += len(block)
                yield rate, block
        except soundfile.LibsndfileError as error:
            raise _ends_early(name, max(num_frames, sound.tell()) / rate, announced) from error
        if announced is not None and num_frames / rate < announced - SOUNDFILE_SLACK:
            raise _ends_early(name, num_frames / rate, announced)
        if sound.format == "MP3":
            _check_mp3_is_read(file, num_frames / rate, announced is not None, name)


def _announced_seconds(sound: Any, file: BinaryIO) -> float | None:
    """The duration that the header of a file open in soundfile announces; None where it announces none."""
    if sound.format == "MP3":
        place = file.tell()
        file.seek(0)
        is_known = _announces_length(_first_frame(file))
        file.seek(place)
    else:
        is_known = sound.frames < 2**62  # libsndfile's mark for flac of unknown length
    if not is_known:
        return None
    # libsndfile trims the length of a wav or aiff file to what is there, and notes it in its log.
    trimmed = re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info)
    if trimmed and int(trimmed[1]) < UNKNOWN_WAV_BYTES:
        return sound.frames / sound.samplerate * int(trimmed[1]) / max(1, int(trimmed[2]))
    return sound.frames / sound.samplerate


def _check_mp3_is_read(file: BinaryIO, seconds: float, has_length: bool, name: str) -> None:
    """Refuse an mp3 that goes on behind the length that libsndfile estimated, or took from a wrong header."""
    num_read = file.tell()
    num_left = file.seek(0, os.SEEK_END) - num_read
    if num_left * seconds > 1.0 * num_read:  # a second of audio, at the rate of the part that was read
        if has_length:
            raise AudioError(name, f"it goes on after the {seconds:.1f} s its header announces; encode it again")
        raise AudioError(name, f"mp3 of varying bit rate without a length header needs PyAV: {_INSTALL_PYAV}")


def _decode_container(file: BinaryIO, container: str, name: str) -> Decoded:
    try:
        import av
    except ImportError:
        kind = {"mov": "mp4 or m4a", "matroska": "webm or mkv"}.get(container, container)
        raise AudioError(name, f"{kind} audio needs PyAV: {_INSTALL_PYAV}") from None

    seconds, announced = 0.0, None
    try:
        with av.open(file, mode="r", format=container, metadata_errors="replace") as opened:
            if not opened.streams.audio:
                raise AudioError(name, "it has no audio track; name a file with sound")
            if container in ("mov", "matroska"):  # the others' durations are estimates
                announced = _track_seconds(opened)
            for frame in opened.decode(opened.streams.audio[0]):
                seconds += frame.samples / frame.sample_rate
                yield frame.sample_rate, _frame_samples(frame, name)
    except av.error.FFmpegError as error:
        if seconds:
            raise _ends_early(name, seconds, announced) from error
        raise AudioError(name, f"it cannot be decoded ({error.strerror}); download or encode it again") from error
    if announced is not None and seconds < announced - CONTAINER_SLACK:
        raise _ends_early(name, seconds, announced)


def _track_seconds(opened: Any) -> float | None:
    track = opened.streams.audio[0]
    if track.duration is not None:
        return float(track.duration * track.time_base)
    if opened.duration is not None and len(opened.streams) == 1:
        return opened.duration / 1e6  # microseconds
    return None


def _frame_samples(frame: Any, name: str) -> np.ndarray:
    """A decoded PyAV frame as float32 of shape (num_frames, num_channels)."""
    samples = frame.to_ndarray()  # (num_channels, num_frames) if planar, else (1, num_frames * num_channels)
    samples = samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1)
    return as_float32(samples, name)


def as_float32(samples: np.ndarray, name: str) -> np.ndarray:
    """Floats as they are, integers scaled to [-1, 1); uint8 is centred on 128, as in wav files.

    Raises AudioError for other types.
    """
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is refused later
            return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int8, np.int16, np.int32):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    # Wider integers come from Python lists and hold narrower samples: their own range would silence them.
    raise AudioError(name, f"samples of type {samples.dtype}; expected float32, or int16, int32, int8 or uint8")


# Messages

_INSTALL_PYAV = "pip install 'sewkit[audio]'"
_FORMATS = "wav, flac, ogg or mp3 (or with PyAV mp4, m4a, webm or aac)"


def _ends_early(name: str, seconds: float, announced: float | None) -> AudioError:
    of = "" if announced is None else f" of the {announced:.1f} s its header announces"
    return AudioError(name, f"the file can be decoded only to {seconds:.1f} s{of}; download or encode it again")


def _unreadable(file: BinaryIO, error: Exception) -> str:
    file.seek(0)
    if _is_text(file.read(512)):
        return "this is text, not audio; check how the file was made"
    reason = str(getattr(error, "error_string", "no header")).strip(" .")
    return f"it cannot be read as audio ({reason}); download it again or convert it to {_FORMATS}"


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # head may end inside a character
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)
