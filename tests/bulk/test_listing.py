"""Inputs: folders and manifests name the same recordings; lots and shards are a function of the names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_archive import rows_of

from sewkit.audio import load_segment
from sewkit.bulk.listing import LOT_RECORDINGS, LOT_SECONDS, Clip, Entry, cut_into_shards, find_recordings
from sewkit.data.manifest import ManifestError
from sewkit.recognizer import Recognizer


def entries(count: int, seconds: float | None = None) -> list[Entry]:
    return [Entry(f"{number:05d}.wav", (Clip(f"{number:05d}.wav"),), seconds) for number in range(count)]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [",".join(str(row.get(name, "")) for name in names) for row in rows]
        path.write_text("\n".join([",".join(names), *lines]) + "\n")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_manifests_of_every_kind_name_the_same(archive: Path, suffix: str) -> None:
    rows = [
        {"audio": "0/000.wav", "duration": 0.5, "start": None, "channel": None},
        {"audio": "0/000.wav", "duration": 0.2, "start": 0.1, "channel": 0},
        {"audio": "0/000.wav", "duration": 0.5, "start": None, "channel": None},
    ]
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    if suffix == ".parquet":
        rows = [{"start": None, "channel": None, **row} for row in rows]
    found = find_recordings(str(write_manifest(archive / f"list{suffix}", rows)))
    assert [entry.name for entry in found.entries] == ["0/000.wav", "0/000.wav#t=0.1,0.3&channel=0"]
    assert found.num_repeated == 1
    assert [entry.seconds for entry in found.entries] == [0.5, 0.2]


def test_segments_and_joined_recordings_are_what_the_manifest_says(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, toy: Recognizer
) -> None:
    parts = [{"audio": "0/000.wav", "pause": 0.0}, {"audio": "1/001.wav", "pause": 0.25}]
    rows = [{"audio": "0/003.wav", "start": 0.1, "duration": 0.3}, {"parts": parts, "duration": 1.5}]
    run(input=str(write_manifest(archive / "list.jsonl", rows)))
    found = rows_of(tmp_path / "out")
    segment = load_segment(archive / "0/003.wav", 0.1, 0.3)
    assert found["0/003.wav#t=0.1,0.4"]["text"] == toy.transcribe(segment).text
    joined = found["0/000.wav+1/001.wav"]
    whole = sum(toy.transcribe(archive / part["audio"]).duration for part in parts) + 0.25
    assert joined["audio_seconds"] == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{", "not JSON"), ("[1]", "expected an object"), ('{"text": "A"}', "audio"), ('{"audio": 3}', "a path or URL")],
)
def test_a_row_that_cannot_be_used_is_said_with_its_place(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"audio": "a.wav"}\n' + line + "\n")
    with pytest.raises(ManifestError, match=rf"list.jsonl:2: .*{problem}"):
        find_recordings(str(path))


def test_lots_are_full_by_recordings_or_by_seconds() -> None:
    shards = list(cut_into_shards(entries(1000), 500))
    assert [sum(len(lot.entries) for lot in shard.lots) for shard in shards] == [500, 500]
    assert {len(lot.entries) for shard in shards for lot in shard.lots[:-1]} == {LOT_RECORDINGS}
    lots = [lot for shard in cut_into_shards(entries(100, seconds=60.0), 500) for lot in shard.lots]
    assert {len(lot.entries) for lot in lots} == {int(LOT_SECONDS / 60)}


def test_what_is_missing_is_cut_as_it_was_before() -> None:
    """Of finished shards whichever: the others come out the same, lot by lot."""
    everything = entries(1000)
    shards = list(cut_into_shards(everything, 64))
    for finished in ({0}, {3, 4, 9}, set(range(1, 15))):
        done = {entry.name for index in finished for lot in shards[index].lots for entry in lot.entries}
        again = list(cut_into_shards([entry for entry in everything if entry.name not in done], 64))
        assert again == [shard for index, shard in enumerate(shards) if index not in finished]
