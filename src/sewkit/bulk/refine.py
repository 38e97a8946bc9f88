"""The second pass: what time is left goes to the recordings of which the first was least sure.

A refined row takes the place of the old one inside its shard, which is replaced as a whole: whoever reads the shards,
at any moment and with any tool, finds each recording once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sewkit.bulk.listing import Entry, Lot, Shard, cut_into_shards
from sewkit.bulk.rows import Row
from sewkit.bulk.shards import read_shard, write_shard
from sewkit.bulk.storage import Folder

WAVE = 0.5
"""Share of the time left that the next wave may take: what is expected of the first waves need not be exact."""
LEAST_GAIN = 0.02
"""Of all time there is; with less left no wave begins."""


@dataclass(frozen=True, slots=True)
class Score:
    """How sure the model was of a recording."""

    confidence: float
    seconds: float
    shard: str
    """The file its row is in."""


def score(row: Row, shard: str, point: str) -> Score | None:
    """Of a row that may be refined to `point`: neither an error, nor from there already, nor without words."""
    if row["error_kind"] is not None or row["operating_point"] == point or row["confidence"] is None:
        return None
    return Score(row["confidence"], row["audio_seconds"], shard)


def next_wave(scores: dict[str, Score], time_left: float, time_total: float, cost: float) -> list[str]:
    """The least confident recordings that fit into the next wave; none where little time is left.

    cost: seconds of the job for a second of sound.
    """
    if time_left < LEAST_GAIN * time_total:
        return []
    names, allowed = [], WAVE * time_left
    for name in sorted(scores, key=lambda name: (scores[name].confidence, name)):
        allowed -= scores[name].seconds * cost
        if allowed < 0:
            break
        names.append(name)
    return names


def wave_shards(names: Sequence[str], scores: dict[str, Score], entries: dict[str, Entry]) -> Iterator[Shard]:
    """The work of a wave by the shards whose rows it replaces."""
    by_file: dict[str, list[Entry]] = defaultdict(list)
    for name in names:
        by_file[scores[name].shard].append(entries[name])
    for file, members in by_file.items():
        stem = file.partition(".")[0]
        lots = [lot for shard in cut_into_shards(members, len(members)) for lot in shard.lots]
        yield Shard(stem, tuple(Lot(stem, index, lot.entries) for index, lot in enumerate(lots)))


def replace_rows(folder: Folder, file: str, rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Put rows in the place of those for the same recordings; errors replace nothing. The old and the new ones."""
    new = {row["recording"]: row for row in rows if row["error_kind"] is None}
    before = read_shard(folder, file)
    write_shard(folder, file, [new.get(row["recording"], row) for row in before])
    return [row for row in before if row["recording"] in new], list(new.values())
