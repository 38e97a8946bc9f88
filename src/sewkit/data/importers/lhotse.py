"""Lhotse's cuts and Shar folders. Cuts become segments; what lies in a Shar tar is read from there, never extracted."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sewkit.data.importers.common import Problem, Row
from sewkit.data.manifest import ManifestError
from sewkit.errors import MissingExtraError


def lhotse_cuts(source: Path) -> Iterator[Row | Problem]:
    """A cuts.jsonl or cuts.jsonl.gz. Mixed, padded and changed cuts are refused one by one: a row is a recording."""
    for cut in _read_cuts(source):
        row = _row_of_cut(cut)
        if isinstance(row, dict):
            (audio,) = cut.recording.sources
            path = Path(audio.source)
            row["audio"] = path if path.is_absolute() or path.exists() else source.parent / path
            if cut.start or cut.duration < cut.recording.duration:
                row |= {"start": cut.start, "duration": cut.duration}
        yield row


def shar(source: Path) -> Iterator[Row | Problem]:
    """A folder of cuts.NNNNNN.jsonl.gz and recording.NNNNNN.tar, the n-th recording that of the n-th cut."""
    shards = sorted(path for path in source.glob("cuts.*.jsonl*"))
    if not shards:
        raise ManifestError(
            f"{source}: expected cuts.000000.jsonl.gz and recording.000000.tar as Lhotse's Shar has them"
        )
    for shard in shards:
        archive = source / f"recording.{shard.name.split('.')[1]}.tar"
        for cut, member in zip(_read_cuts(shard), _recordings(archive), strict=True):
            row = _row_of_cut(cut)
            if isinstance(row, dict):
                if Path(member.name).stem != cut.id or member.name.endswith(".nodata"):
                    yield Problem(f"{shard}: cut {cut.id}", f"no recording of it in {archive.name}")
                    continue
                # Shar stores the cut's own stretch of sound and no more.
                row |= {"audio": archive, "offset": member.offset_data, "size": member.size}
            yield row


def _recordings(archive: Path) -> Iterator[tarfile.TarInfo]:
    """Shar's members come in pairs, audio and its JSON."""
    try:
        with tarfile.open(archive, mode="r:") as tar:
            yield from (member for number, member in enumerate(tar) if number % 2 == 0)
    except (OSError, tarfile.TarError) as error:
        raise ManifestError(f"{archive}: not a readable, uncompressed tar ({error})") from error


def _read_cuts(path: Path) -> Iterator[Any]:
    try:
        from lhotse import CutSet
    except ImportError as error:
        raise MissingExtraError("reading Lhotse's cuts", "train") from error
    try:
        yield from CutSet.from_file(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path}: not a readable set of cuts ({str(error).splitlines()[0]})") from error


def _row_of_cut(cut: Any) -> Row | Problem:
    """Labels and channel of a cut of one unchanged recording."""
    name = f"cut {cut.id}"
    if type(cut).__name__ not in ("MonoCut", "MultiCut"):
        return Problem(name, f"a {type(cut).__name__}; expected a cut of one recording: save the mix as audio first")
    if not cut.has_recording or cut.recording.transforms:
        return Problem(name, "no recording, or one changed on the fly; save it as audio first")
    if [audio.type for audio in cut.recording.sources] not in (["file"], ["shar"]):
        return Problem(name, "its recording is not one file; save it as one file first")
    supervisions = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    texts = [supervision.text for supervision in supervisions if supervision.text]
    row: Row = {"id": cut.id, "text": " ".join(texts) or None}
    row["speaker"] = next((supervision.speaker for supervision in supervisions if supervision.speaker), None)
    channels = cut.recording.channel_ids
    if isinstance(cut.channel, int) and channels is not None and len(channels) > 1:
        row["channel"] = channels.index(cut.channel)
    return row
