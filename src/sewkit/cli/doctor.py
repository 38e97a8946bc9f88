"""`sewkit doctor`: is this installation sound?"""

from __future__ import annotations

from typing import Annotated

import typer

from sewkit.cli.options import BUNDLED, Device, Json, Model, print_json


def doctor(
    model: Model = BUNDLED,
    device: Device = None,
    verify: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Download this published English model, transcribe a clip, check the words."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the environment, the optional parts, and that a padded batch equals single runs.

    Example:  sewkit doctor --verify asapp/sew-d-tiny-100k-ft-ls100h
    """
    from sewkit import doctor as checks
    from sewkit.recognizer import load

    results = list(checks.environment())
    if verify is not None:
        results.append(checks.verify(verify))
    else:
        asr = load(model, device=device)
        results += [checks.batch_invariance(asr), checks.speed(asr)]
    for check in results:
        mark = {None: " ", True: "ok", False: "FAILED"}[check.passed]
        print_json(check._asdict()) if as_json else typer.echo(f"{mark:>6}  {check.name}: {check.found}")
    if any(check.passed is False for check in results):
        raise typer.Exit(1)
