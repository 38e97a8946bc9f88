"""`sewkit VERB`. Verbs import what they need when they run, so that `--help` is instant."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable

import typer

from sewkit.cli.align import align
from sewkit.cli.average import average
from sewkit.cli.bench import bench
from sewkit.cli.bulk import bulk
from sewkit.cli.classify import classify
from sewkit.cli.compare import compare
from sewkit.cli.convert import convert
from sewkit.cli.data import data
from sewkit.cli.doctor import doctor
from sewkit.cli.evaluate import evaluate
from sewkit.cli.export import export
from sewkit.cli.finetune import finetune
from sewkit.cli.info import info
from sewkit.cli.lm import lm
from sewkit.cli.matrix import matrix
from sewkit.cli.plan import plan
from sewkit.cli.pretrain import pretrain
from sewkit.cli.serve import serve
from sewkit.cli.sweep import sweep
from sewkit.cli.transcribe import transcribe
from sewkit.errors import UserError
from sewkit.train.signals import EXIT_STATUS, Stopped
from sewkit.version import __version__

app = typer.Typer(
    name="sewkit",
    help="Efficient wav2vec 2.0 speech recognition: use, train and measure W2V2, SEW and SEW-D.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sewkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


PANELS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "From sound": (transcribe, align, classify, bulk, serve),
    "Models": (info, convert, average, export, doctor),
    "Training": (data, pretrain, finetune, matrix, lm),
    "Measuring": (evaluate, compare, sweep, plan, bench),
}
"""What `--help` lists together; a verb of several commands is an app of its own."""


def _reflow(one: typer.Typer) -> None:
    """Let help be broken at the width of the terminal, not where the docstrings of an app's commands are."""
    for command in one.registered_commands:
        assert command.callback is not None
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command.callback) or "")


for panel, verbs in PANELS.items():
    for verb in verbs:
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, rich_help_panel=panel)
            _reflow(verb)
        else:
            app.command(verb.__name__, rich_help_panel=panel)(verb)
_reflow(app)


def main() -> None:
    """Entry point. Errors that are the user's to mend become one line and exit status 1; a stopped run ends with 75."""
    try:
        app()
    except Stopped as stopped:
        print(f"sewkit: {stopped}", file=sys.stderr)
        sys.exit(EXIT_STATUS)
    except UserError as error:
        print(f"sewkit: {error}", file=sys.stderr)
        sys.exit(1)
