"""A row of the output: what one recording became, as plain types; rows as JSON lines or Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sewkit.audio import SAMPLE_RATE
from sewkit.errors import MissingExtraError
from sewkit.transcript import Transcript
from sewkit.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
"""recording, text, words (word, start, end, confidence), confidence, operating_point, audio_seconds, model, version,
error_kind, error; of a recording that failed all but its name, the model and the error are null."""

MISSING, UNREACHABLE, UNREADABLE, FAILED, CRASHED = "missing", "unreachable", "unreadable", "failed", "crashed"
"""Kinds of errors: no such file; connections that broke again and again; sound that cannot be used; an exception in the
model; a process that died of it."""


@dataclass(frozen=True)
class Trouble:
    """Why a recording has no text."""

    kind: str
    message: str


def confidence(transcript: Transcript) -> float | None:
    """Of a recording: the mean over its words; None where none was heard."""
    if not transcript.words:
        return None
    return sum(word.confidence for word in transcript.words) / len(transcript.words)


def text_row(name: str, transcript: Transcript, model: str) -> Row:
    """Of a recording that was transcribed; times to the millisecond."""
    sure = confidence(transcript)
    return {
        "recording": name,
        "text": transcript.text,
        "words": [word.to_dict() for word in transcript.words],
        "confidence": None if sure is None else round(sure, 4),
        "operating_point": str(transcript.compute),
        "audio_seconds": round(transcript.duration * SAMPLE_RATE) / SAMPLE_RATE,
        "model": model,
        "version": __version__,
        "error_kind": None,
        "error": None,
    }


def error_row(name: str, trouble: Trouble, model: str) -> Row:
    """Of a recording that was not."""
    nothing = dict.fromkeys(("text", "words", "confidence", "operating_point", "audio_seconds"))
    said = {"model": model, "version": __version__, "error_kind": trouble.kind, "error": trouble.message}
    return {"recording": name, **nothing, **said}


# Formats


def _encode_json_lines(rows: Iterable[Row]) -> bytes:
    # A file name that is not UTF-8 holds surrogates; as escapes they come back as they were.
    lines = (json.dumps(row, ensure_ascii=_has_surrogate(row["recording"])) + "\n" for row in rows)
    return "".join(lines).encode("utf-8")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _decode_json_lines(data: bytes) -> list[Row]:
    return [json.loads(line) for line in data.splitlines()]


def _schema() -> pa.Schema:
    import pyarrow as pa

    word = pa.struct(
        [("word", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("confidence", pa.float64())]
    )
    texts = {name: pa.string() for name in ("recording", "text", "operating_point", "model", "version")}
    errors = {name: pa.string() for name in ("error_kind", "error")}
    numbers = {name: pa.float64() for name in ("confidence", "audio_seconds")}
    order = ("recording", "text", "words", "confidence", "operating_point", "audio_seconds", "model", "version")
    fields = {**texts, **errors, **numbers, "words": pa.list_(word)}
    return pa.schema([(name, fields[name]) for name in (*order, "error_kind", "error")])


def _encode_parquet(rows: Iterable[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    plain = [{**row, "recording": row["recording"].encode("utf-8", "backslashreplace").decode()} for row in rows]
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(plain, _schema()), buffer, compression="zstd")
    return buffer.getvalue()


def _decode_parquet(data: bytes) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    return parquet.read_table(pa.BufferReader(data)).to_pylist()


ENCODERS: dict[str, Callable[[Iterable[Row]], bytes]] = {"jsonl": _encode_json_lines, "parquet": _encode_parquet}
"""Output formats by name, which is their suffix."""
DECODERS: dict[str, Callable[[bytes], list[Row]]] = {"jsonl": _decode_json_lines, "parquet": _decode_parquet}


def check_format(name: str) -> None:
    """Raises MissingExtraError where a format's package is not installed."""
    if name == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("Parquet", "bulk") from error
