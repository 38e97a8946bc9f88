"""`sewkit transcribe`: recordings to text, subtitles or JSON."""

from __future__ import annotations

from sewkit.cli.decoding import Alpha, Beam, Beta, Hotword, LanguageModelFile, choose_decoder
from sewkit.cli.options import (
    BUNDLED,
    Architecture,
    Audio,
    BatchSeconds,
    ComputePoint,
    Device,
    Dtype,
    Json,
    Model,
    OutputDir,
    OutputFormat,
    Threads,
)


def transcribe(
    audio: Audio,
    model: Model = BUNDLED,
    output_format: OutputFormat = None,
    output_dir: OutputDir = None,
    lm: LanguageModelFile = None,
    hotword: Hotword = None,
    beam: Beam = None,
    alpha: Alpha = None,
    beta: Beta = None,
    compute: ComputePoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
    batch_seconds: BatchSeconds = None,
    architecture: Architecture = None,
    as_json: Json = False,
) -> None:
    """Transcribe recordings of any length, format, rate and channel count.

    Text goes to standard output; with --output-format or --output-dir files are written instead. A bad recording gets
    one line on standard error, the others are still done, and the exit status is 1.

    --lm, --hotword and --beam decode by beam search instead of greedily, and so does a model with a language model in
    its folder.

    Example:  sewkit transcribe calls/ talk.mp3 --model asapp/sew-d-tiny-100k-ft-ls100h -f srt -o subtitles
    """
    from functools import partial

    from sewkit.cli.output import Output
    from sewkit.cli.recordings import Recordings
    from sewkit.recognizer import load

    output = Output(output_format, output_dir, as_json, default_format="txt")
    recordings = Recordings(audio)
    output.expect(recordings.paths)
    asr = load(model, device=device, dtype=dtype, threads=threads, architecture=architecture)
    asr.batch_seconds = batch_seconds or asr.batch_seconds
    choose_decoder(asr, lm, hotword, beam, alpha, beta)
    for transcript in recordings.run(partial(asr.transcribe_batch, compute=compute), "transcribing"):
        output.give(transcript, transcript.text)
