"""From text files to an ARPA file, by ourselves or by KenLM's lmplz."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from sewkit.decode.lm.arpa import LanguageModelError, write_arpa
from sewkit.decode.lm.kneser_ney import build_arpa
from sewkit.errors import UserError
from sewkit.files import replacing

LINES_BETWEEN_REPORTS = 10_000


def build_from_files(
    corpus: Sequence[Path],
    output: Path,
    order: int = 4,
    prune: Sequence[int] = (),
    on_progress: Callable[[float], None] | None = None,
) -> list[int]:
    """Estimate a model from text files, plain or gzipped, one sentence a line, and write it; the n-grams of each order.

    on_progress: called with the share done since its last call, reading being one half and counting the other.
    Raises LanguageModelError, see `build_arpa`.
    """
    report = on_progress or (lambda share: None)
    done = 0.0

    def counting(share: float) -> None:
        nonlocal done
        report((share - done) / 2)
        done = share

    arpa = build_arpa(_sentences(corpus, lambda share: report(share / 2)), order, prune=prune, on_progress=counting)
    write_arpa(output, arpa)
    return [len(ngrams.words) for ngrams in arpa.orders]


def _sentences(corpus: Sequence[Path], on_share: Callable[[float], None]) -> Iterator[str]:
    """The lines of all files; `on_share` gets the share of their bytes that was read since its last call."""
    if missing := [path for path in corpus if not path.is_file()]:
        raise LanguageModelError(f"{missing[0]}: no such file; expected text, one sentence a line")
    total = sum(path.stat().st_size for path in corpus) or 1
    for path in corpus:
        read = 0
        with path.open("rb") as raw:
            for number, line in enumerate(_lines(path, raw), start=1):
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError:
                    raise LanguageModelError(f"{path}, line {number}: not UTF-8; convert the file") from None
                if number % LINES_BETWEEN_REPORTS == 0:
                    on_share((raw.tell() - read) / total)
                    read = raw.tell()
        on_share((path.stat().st_size - read) / total)


def _lines(path: Path, raw: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LanguageModelError(f"{path}: damaged gzip file: {error}") from error


def build_with_lmplz(
    corpus: Sequence[Path],
    output: Path,
    order: int = 4,
    prune: Sequence[int] = (),
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """The same through KenLM's `lmplz`, which sorts on disk: the text streams to it, and is never held as a whole.

    on_progress: called with the share of the text handed over since its last call.
    Raises UserError where lmplz is missing or fails, LanguageModelError for text that can't be read.
    """
    program = shutil.which("lmplz")
    if program is None:
        raise UserError("lmplz is not on the path; install KenLM, or leave --lmplz out")
    if output.suffix == ".gz":
        raise UserError(f"{output}: lmplz writes plain ARPA files; leave .gz out")
    # What it says goes to a file, not to a pipe, which would fill while the text is written.
    with replacing(output) as draft, tempfile.TemporaryFile() as said:
        command = [program, "--order", str(order), "--discount_fallback", "--arpa", str(draft)]
        if prune:
            command += ["--prune", *map(str, prune)]
        status = _run(command, _sentences(corpus, on_progress or (lambda share: None)), said)
        if status:
            said.seek(0)
            last = (said.read().decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise UserError(f"lmplz stopped with status {status}: {last}")


def _run(command: list[str], lines: Iterator[str], said: IO[bytes]) -> int:
    """Exit status of a program that reads lines; what it says goes to a file. It ends where the lines fail."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
        assert process.stdin is not None
        try:
            for line in lines:
                process.stdin.write(line.rstrip("\r\n").encode() + b"\n")
            process.stdin.close()
        except BrokenPipeError:  # it has stopped, and says why
            with suppress(BrokenPipeError):
                process.stdin.close()
        except BaseException:
            process.kill()
            raise
    return process.returncode
