"""`sewkit classify`: what a model fine-tuned with labels says of recordings."""

from __future__ import annotations

from typing import Annotated

import typer

from sewkit.cli.options import Audio, BatchSeconds, ComputePoint, Device, Dtype, Json, Model, Threads, print_json


def classify(
    audio: Audio,
    model: Model,
    top: Annotated[int, typer.Option(min=1, help="So many classes of each recording, best first.")] = 3,
    compute: ComputePoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
    batch_seconds: BatchSeconds = None,
    as_json: Json = False,
) -> None:
    """Say what recordings are: whose voice, what wish, which emotion or language; what the model was fine-tuned for.

    A line for each recording: its classes, best first, with their probabilities. Of recordings longer than 30 seconds
    pieces are heard and their scores averaged. A bad recording gets one line on standard error, the others are still
    done, and the exit status is 1.

    Example:  sewkit classify calls/ talk.mp3 --model runs/speakers/model --top 1
    """
    from functools import partial

    from sewkit.cli.recordings import Recordings
    from sewkit.recognizer import load

    recordings = Recordings(audio)
    asr = load(model, device=device, dtype=dtype, threads=threads)
    asr.batch_seconds = batch_seconds or asr.batch_seconds
    for found in recordings.run(partial(asr.classify_batch, compute=compute, top=top), "classifying"):
        classes = ", ".join(f"{one.label} {one.score:.1%}" for one in found.scores)
        if as_json:
            print_json({"source": found.source, **found.to_dict()})
        else:
            typer.echo(classes if len(recordings.paths) == 1 else f"{found.source}: {classes}")
