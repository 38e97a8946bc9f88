"""Corpora with transcripts: LibriSpeech trees, fairseq's tsv and ltr, NeMo's JSON lines, Kaldi's data folders."""

from collections.abc import Iterator
from pathlib import Path

from sewkit.data.importers.common import Problem, Row, read_lines, split_of
from sewkit.data.manifest import ManifestError, read_json_lines


def librispeech(source: Path) -> Iterator[Row | Problem]:
    """A tree of .../SUBSET/SPEAKER/CHAPTER/ID.flac with SPEAKER-CHAPTER.trans.txt beside them.

    A line of a transcript:  1089-134686-0000 HE HOPED THERE WOULD BE STEW FOR DINNER
    """
    for transcript in sorted(source.rglob("*.trans.txt")):
        folder = transcript.parent
        subset = folder.parent.parent.name
        for place, line in read_lines(transcript):
            name, _, text = line.partition(" ")
            audio = next(
                (path for s in ("flac", "wav", "ogg", "opus") if (path := folder / f"{name}.{s}").exists()), None
            )
            if audio is None:
                yield Problem(place, f"no {name}.flac beside the transcript")
                continue
            row: Row = {"audio": audio, "text": text, "speaker": name.split("-")[0], "id": name, "subset": subset}
            yield {**row, "split": split} if (split := split_of(subset)) else row


def fairseq(source: Path) -> Iterator[Row | Problem]:
    """A .tsv of fairseq or a folder of them, with .ltr (letters, words ended by |) or .wrd beside; without: unlabelled.

    The first line of the tsv is the root folder, every other one a path below it, a tab, the number of samples. The
    n-th line of the labels belongs to the n-th path.
    """
    for table in sorted(source.glob("*.tsv")) if source.is_dir() else [source]:
        lines = list(read_lines(table))
        if not lines or "\t" in lines[0][1]:
            raise ManifestError(f"{table}:1: expected the root folder of fairseq's manifest; found a table")
        root = table.parent / lines[0][1].strip()
        texts = _fairseq_texts(table, len(lines) - 1)
        for (place, line), text in zip(lines[1:], texts, strict=True):
            audio, tab, _ = line.partition("\t")
            if not tab:
                yield Problem(place, "expected a path, a tab and the number of samples")
                continue
            row: Row = {"audio": root / audio, "speaker": Path(audio).stem.split("-")[0], "text": text}
            yield {**row, "split": split_of(table.stem) or table.stem}


def _fairseq_texts(table: Path, count: int) -> list[str | None]:
    for suffix in (".ltr", ".wrd"):
        path = table.with_suffix(suffix)
        if not path.exists():
            continue
        texts = path.read_text(encoding="utf-8").splitlines()
        if len(texts) != count:
            raise ManifestError(f"{path}: {len(texts)} lines of text for the {count} recordings of {table.name}")
        if suffix == ".ltr":
            texts = [" ".join(text.replace(" ", "").replace("|", " ").split()) for text in texts]
        return list(texts)
    return [None] * count


def nemo(source: Path) -> Iterator[Row | Problem]:
    """JSON lines with `audio_filepath`, `text`, and `offset` and `duration` (seconds) where a row is a segment."""
    for place, entry in read_json_lines(source):
        if not isinstance(entry.get("audio_filepath"), str):
            yield Problem(place, "no audio_filepath")
            continue
        row = {"audio": source.parent / entry.pop("audio_filepath")}
        if entry.get("offset") is not None:
            row["start"] = entry.pop("offset")
            if not isinstance(entry.get("duration"), int | float):
                yield Problem(place, "offset without duration")
                continue
        else:
            entry.pop("duration", None)  # of the whole file: its header knows better
        channel = entry.pop("channel_selector", None)
        yield {**row, **entry, **({"channel": channel} if isinstance(channel, int) else {})}


def kaldi(source: Path) -> Iterator[Row | Problem]:
    """A data folder: wav.scp, and where they are there segments, text and utt2spk.

    Paths in wav.scp start from the current folder, as in Kaldi, or from the data folder. Pipes are refused.
    """
    recordings = {name: path for _, name, path in _kaldi_table(source / "wav.scp")}
    for place, name, path in _kaldi_table(source / "wav.scp"):
        if path.endswith("|"):
            raise ManifestError(
                f"{place}: {name} is the output of a command ({path[:60]}); expected a file: run the commands once, "
                "write their output to wav or flac files, and list those in wav.scp"
            )
    texts = _optional_table(source / "text")
    speakers = _optional_table(source / "utt2spk")
    for place, name, row in _kaldi_utterances(source, recordings):
        if isinstance(row, Problem):
            yield row
            continue
        if texts and name not in texts:
            yield Problem(place, f"no line of `text` for {name}")
            continue
        yield {**row, "text": texts.get(name), "speaker": speakers.get(name), "id": name}


def _kaldi_utterances(source: Path, recordings: dict[str, str]) -> Iterator[tuple[str, str, Row | Problem]]:
    """(place, utterance, row with its audio) of each segment, or of each recording where there are no segments."""
    segments = source / "segments"
    if not segments.exists():
        for name, path in recordings.items():
            yield f"{source / 'wav.scp'}", name, {"audio": _kaldi_path(source, path)}
        return
    for place, name, rest in _kaldi_table(segments):
        recording, *numbers = rest.split()
        try:
            start, end = map(float, numbers[:2])
        except ValueError:
            yield place, name, Problem(place, "expected utterance, recording, start and end in seconds")
            continue
        if recording not in recordings:
            yield place, name, Problem(place, f"no recording {recording} in wav.scp")
            continue
        row: Row = {"audio": _kaldi_path(source, recordings[recording]), "start": start}
        if end >= 0:  # -1: to the end of the recording
            row["duration"] = round(end - start, 6)
        if len(numbers) > 2:
            row["channel"] = int(numbers[2])
        yield place, name, row


def _kaldi_path(source: Path, path: str) -> Path:
    return Path(path) if Path(path).exists() else source / path


def _kaldi_table(path: Path) -> Iterator[tuple[str, str, str]]:
    """(place, key, rest of the line)."""
    for place, line in read_lines(path):
        key, *rest = line.split(maxsplit=1)
        yield place, key, rest[0].strip() if rest else ""


def _optional_table(path: Path) -> dict[str, str]:
    return {key: rest for _, key, rest in _kaldi_table(path)} if path.exists() else {}
