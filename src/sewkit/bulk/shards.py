"""The output: shards that appear whole or not at all, what is done by them, and the identity of the job.

OUTPUT/job.json        what was asked for, of which model; another job is refused
OUTPUT/shard-*.jsonl   or .parquet: rows, one for each recording
OUTPUT/progress.json   how far the job is; time spent by earlier runs of it
OUTPUT/summary.json, summary.png   at the end
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sewkit.bulk.listing import Lot, Shard
from sewkit.bulk.rows import DECODERS, ENCODERS, Row
from sewkit.bulk.stages import LotResult
from sewkit.bulk.storage import Folder
from sewkit.errors import UserError

JOB, PROGRESS, SUMMARY, PLOT = "job.json", "progress.json", "summary.json", "summary.png"
FORMAT_VERSION = 1


def read_rows(output: str) -> Iterator[Row]:
    """The rows of a job's finished shards, one for each recording, in no order that means something.

    output: a local folder, or a prefix such as s3://bucket/texts. Raises UserError for what cannot be read.
    """
    folder = Folder(output)
    for name in shard_names(folder):
        yield from read_shard(folder, name)


def shard_names(folder: Folder) -> list[str]:
    """The files of finished shards."""
    return [name for name in folder.names() if name.startswith("shard-") and name.partition(".")[2] in DECODERS]


def read_shard(folder: Folder, name: str) -> list[Row]:
    """Its rows. Raises UserError for a file that is none."""
    data = folder.read(name)
    try:
        return [] if data is None else DECODERS[name.partition(".")[2]](data)
    except ValueError as error:  # pyarrow's errors are ValueErrors too
        raise UserError(
            f"{folder.location}/{name}: not a shard ({error}); delete it, and its part is done anew"
        ) from error


def write_shard(folder: Folder, name: str, rows: Iterable[Row]) -> None:
    """In place of an older one. `name` with its suffix, which is the format."""
    folder.write(name, ENCODERS[name.partition(".")[2]](rows))


class Collector:
    """Holds the rows of open shards, and gives them out when a shard's last lot has come."""

    def __init__(self) -> None:
        self._expected: dict[str, int] = {}
        self._rows: dict[str, dict[int, list[Row]]] = {}

    def expect(self, shard: Shard) -> Iterator[Lot]:
        """The lots of a shard, which are then on their way."""
        self._expected[shard.name] = len(shard.lots)
        self._rows[shard.name] = {}
        yield from shard.lots

    def take(self, result: LotResult) -> list[Row] | None:
        """A lot's rows; all those of its shard, in order, if that made it complete."""
        name = result.lot.shard
        lots = self._rows[name]
        lots[result.lot.index] = result.rows
        if len(lots) < self._expected[name]:
            return None
        del self._rows[name], self._expected[name]
        return [row for index in sorted(lots) for row in lots[index]]


def claim(folder: Folder, job: dict[str, Any], force: bool) -> None:
    """Make the output this job's: note what it is, or see that it is the same as before.

    Raises UserError where the output belongs to another job, unless forced: then rows that are done stay as they are.
    """
    job = {"format_version": FORMAT_VERSION, **job}
    data = folder.read(JOB)
    if data is None and shard_names(folder) and not force:
        raise UserError(f"{folder.location}: holds shards but no {JOB}; give another OUTPUT, or --force to add to them")
    if data is not None and not force:
        _compare(_parse(data, folder), job, folder.location)
    folder.write(JOB, (json.dumps(job, indent=1, ensure_ascii=False) + "\n").encode())


def _parse(data: bytes, folder: Folder) -> dict[str, Any]:
    try:
        found = json.loads(data)
        return found if isinstance(found, dict) else {}
    except ValueError as error:
        raise UserError(f"{folder.location}/{JOB}: not JSON ({error}); --force writes it anew") from error


def _compare(before: dict[str, Any], now: dict[str, Any], location: str) -> None:
    # Through JSON, in which tuples are lists.
    now = json.loads(json.dumps(now))
    changed = [
        f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{location}: belongs to a job with other settings ({'; '.join(changed)}); give another OUTPUT, or --force "
            "to go on with the new ones and keep the rows that are done"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
