"""`sewkit transcribe`: recordings to text, subtitles or JSON."""

from __future__ import annotations

import sys

from sewkit.cli.decoding import Alpha, Beam, Beta, Hotword, LanguageModelFile, choose_decoder
from sewkit.cli.live import Live, Microphone, SampleRate
from sewkit.cli.options import (
    BUNDLED,
    Architecture,
    AudioUnlessLive,
    BatchSeconds,
    ComputePoint,
    Device,
    Dtype,
    Json,
    MaxLineCount,
    MaxLineWidth,
    Model,
    OutputDir,
    OutputFormat,
    PartialCompute,
    Refine,
    Segmented,
    Threads,
)


def transcribe(
    audio: AudioUnlessLive = None,
    model: Model = BUNDLED,
    output_format: OutputFormat = None,
    output_dir: OutputDir = None,
    max_line_width: MaxLineWidth = 42,
    max_line_count: MaxLineCount = 2,
    segment: Segmented = False,
    refine: Refine = False,
    live: Live = False,
    microphone: Microphone = False,
    sample_rate: SampleRate = 16_000,
    lm: LanguageModelFile = None,
    hotword: Hotword = None,
    beam: Beam = None,
    alpha: Alpha = None,
    beta: Beta = None,
    compute: ComputePoint = None,
    partial_compute: PartialCompute = None,
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

    --refine takes two passes: all at a cheap operating point, and what that is unsure of again at full compute.

    --lm, --hotword and --beam decode by beam search instead of greedily, and so does a model with a language model in
    its folder.

    --live and --microphone transcribe what is still coming: on a terminal words show as they are guessed, and a line is
    final once there is a pause; with --json each event is a line. The final words are those that --segment gives for
    the whole recording.

    Example:  sewkit transcribe calls/ talk.mp3 --model asapp/sew-d-tiny-100k-ft-ls100h -f srt -o subtitles
    """
    from functools import partial

    from sewkit.cli.live import run_live
    from sewkit.cli.output import Output
    from sewkit.cli.recordings import Recordings
    from sewkit.errors import UserError
    from sewkit.recognizer import load
    from sewkit.segments import Segmentation
    from sewkit.subtitles import SubtitleStyle

    live = live or microphone
    if live and refine:
        raise UserError("--refine hears recordings again; live sound is heard once: leave it out")
    if live and (audio or output_format or output_dir):
        raise UserError("--live and --microphone print what they hear; leave out recordings and output files")
    if not live and not audio:
        raise UserError("nothing to transcribe; name recordings, or hear live sound with --live or --microphone")
    output = Output(output_format, output_dir, as_json, default_format="txt")
    output.subtitles = SubtitleStyle(max_line_width, max_line_count)
    recordings = Recordings(audio or [])
    output.expect(recordings.paths)
    asr = load(model, device=device, dtype=dtype, threads=threads, architecture=architecture)
    asr.batch_seconds = batch_seconds or asr.batch_seconds
    choose_decoder(asr, lm, hotword, beam, alpha, beta)
    segmentation = Segmentation(compute=partial_compute)
    if live:
        stream = asr.stream(
            compute=compute, segmentation=segmentation, sample_rate=sample_rate, partials=as_json or sys.stdout.isatty()
        )
        run_live(stream, sample_rate, microphone, as_json)
        return
    segmentation_or_none = segmentation if segment else None
    transcribe_batch = partial(asr.transcribe_batch, compute=compute, segmentation=segmentation_or_none, refine=refine)
    for transcript in recordings.run(transcribe_batch, "transcribing"):
        output.give(transcript, transcript.text)
