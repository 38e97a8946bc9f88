"""`sewkit lm`: language models for the beam search."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from sewkit.cli.options import Json, print_json

lm = typer.Typer(name="lm", no_args_is_help=True, help="Build n-gram language models for the beam search.")


@lm.callback()
def _lm() -> None:
    """Keep `build` a verb of its own: with one command alone, typer would leave its name out."""


@lm.command("build")
def build(
    corpus: Annotated[list[Path], typer.Argument(help="Text files, plain or .gz, one sentence a line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ARPA file to write; .gz compresses it.")],
    order: Annotated[int, typer.Option(min=1, help="Words that the longest n-grams have.")] = 4,
    prune: Annotated[
        str, typer.Option(help="Drop n-grams that occur this often or less: a threshold an order, such as '0 0 1'.")
    ] = "0",
    lmplz: Annotated[bool, typer.Option("--lmplz", help="Let KenLM's lmplz do it, which must be on the path.")] = False,
    as_json: Json = False,
) -> None:
    """Estimate an n-gram model from text: interpolated modified Kneser-Ney, equal to KenLM's lmplz to rounding.

    Write the text as the speech model writes words: its letters, any case, no punctuation or digits that it lacks.
    All is counted in memory, some 120 bytes a distinct n-gram; for text that does not fit there is --lmplz, which
    counts on disk.

    Example:  sewkit lm build corpus.txt -o lm.arpa --order 4 --prune "0 0 1"
    """
    from sewkit.cli.progress import counted
    from sewkit.decode.lm.building import build_from_files, build_with_lmplz

    begun = time.monotonic()
    thresholds = _thresholds(prune)
    with counted("building", "%", 100) as advance:

        def on_progress(share: float) -> None:
            advance(100 * share)

        if lmplz:
            build_with_lmplz(corpus, output, order, thresholds, on_progress)
            counts = None
        else:
            counts = build_from_files(corpus, output, order, thresholds, on_progress)
    seconds = time.monotonic() - begun
    if as_json:
        print_json({"output": str(output), "order": order, "ngrams": counts, "seconds": round(seconds, 3)})
    else:
        sizes = "" if counts is None else ", " + " + ".join(f"{count:,}" for count in counts) + " n-grams"
        typer.echo(f"wrote {output}{sizes} in {seconds:.1f} s")


def _thresholds(text: str) -> list[int]:
    from sewkit.errors import UserError

    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"--prune {text!r}: expected whole numbers, one an order, such as '0 0 1'") from None
