"""What is done with a recording: it is transcribed, aligned with a text, or classified.

A task says how recordings are cut, what is run on a batch of chunks, what is kept of a chunk, and what a recording
becomes, see `pieces.Task`; `pipeline.outcomes` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sewkit import chunks
from sewkit.audio import SAMPLE_RATE, AudioError
from sewkit.classification import Classification, PooledScores, rank
from sewkit.compute import Compute
from sewkit.config import ModelConfig
from sewkit.decode import Decoder, FrameTiming, decode_words
from sewkit.decode.align import AlignmentError, Evidence, align_words
from sewkit.decode.spelling import Reference
from sewkit.lengths import hop_samples, informed_length, min_samples, num_frames, receptive_field
from sewkit.pieces import Piece, Recording, Stitched, Task
from sewkit.refine import TwoPasses
from sewkit.runtime import Runtime
from sewkit.text import Alphabet
from sewkit.transcript import Alignment, Transcript, segment_words


def transcription(
    runtime: Runtime, alphabet: Alphabet, decoder: Decoder, compute: Compute, passes: TwoPasses | None = None
) -> Task[Stitched, Transcript]:
    """Words; of `passes` where they are given, of which `compute` is then the first."""
    layers = runtime.config.conv_layers
    finest = compute if passes is None else passes.second
    timing = FrameTiming(hop_samples(layers), receptive_field(layers), SAMPLE_RATE)
    plan = chunks.ChunkPlan.for_model(runtime.config)
    reach = plan.margin // plan.hop // 2

    def keep(piece: Piece[Stitched], logits: np.ndarray) -> Stitched:
        begun = next((kept for kept in piece.recording.kept if kept is not None), None)
        stream = begun or Stitched(decoder.start(), alphabet.silent, reach)
        frames, is_last = answered_frames(piece.chunk, runtime.config, finest), piece.chunk.keep_to is None
        start, stop = max(0, frames.start - reach), frames.stop + (0 if is_last else reach)
        stream.take(piece.index, logits[start:stop], is_last)
        return stream

    def finish(recording: Recording[Stitched]) -> Transcript:
        words = decode_words(recording.pieces()[0].state.labels(), alphabet, timing)
        text = " ".join(word.text for word in words)
        return Transcript(text, words, segment_words(words), recording.seconds, compute, recording.name)

    run = passes.logits if passes else lambda waveforms: runtime.logits(waveforms, compute)
    return Task(plan, run, keep, finish)


def alignment(
    runtime: Runtime, references: Mapping[int, Reference], compute: Compute, snap: bool
) -> Task[Evidence, Alignment]:
    """When each word of a recording's text is spoken. references: by the numbers of the recordings."""
    hop = hop_samples(runtime.config.conv_layers)

    def keep(piece: Piece[Evidence], logits: np.ndarray) -> Evidence:
        frames = answered_frames(piece.chunk, runtime.config, compute)
        end = None if piece.chunk.keep_to is None else frames.stop * hop
        samples = piece.chunk.samples[frames.start * hop : end]
        return Evidence.of(logits[frames], samples, references[piece.recording.number], hop)

    def finish(recording: Recording[Evidence]) -> Alignment | AudioError:
        reference, evidence = references[recording.number], Evidence.concatenate(recording.pieces())
        try:
            words, score = align_words(evidence, reference, hop / SAMPLE_RATE, snap=snap)
        except AlignmentError as error:
            return AudioError(recording.name, str(error))
        text = " ".join(reference.words)
        return Alignment(text, words, segment_words(words), recording.seconds, compute, recording.name, score)

    plan = chunks.ChunkPlan.for_model(runtime.config)
    return Task(plan, lambda waveforms: runtime.logits(waveforms, compute), keep, finish)


def classification(
    runtime: Runtime, labels: Sequence[str], compute: Compute, top: int | None
) -> Task[PooledScores, Classification]:
    """The `top` best classes, None for all of them."""
    layers = runtime.config.conv_layers
    shortest = min_samples(layers, compute.squeeze)

    def keep(piece: Piece[PooledScores], scores: np.ndarray) -> PooledScores:
        frames = num_frames(len(piece.chunk.samples), layers)
        return PooledScores(scores, informed_length(frames, compute.squeeze))

    def finish(recording: Recording[PooledScores]) -> Classification | AudioError:
        pooled = PooledScores.pool(recording.pieces())
        if not pooled.num_frames:
            problem = f"too short to classify ({recording.num_samples} samples at 16 kHz)"
            return AudioError(recording.name, f"{problem}; this model needs at least {shortest}")
        ranked = rank(pooled.scores, labels, top)
        return Classification(ranked, recording.seconds, compute, recording.name)

    plan = chunks.ChunkPlan.for_model(runtime.config).without_overlap()
    return Task(plan, lambda waveforms: runtime.class_scores(waveforms, compute), keep, finish)


def answered_frames(chunk: chunks.Chunk, config: ModelConfig, compute: Compute) -> slice:
    """The frames that a chunk answers for. SEW's zero tail carries no sound: left out."""
    frames = num_frames(len(chunk.samples), config.conv_layers)
    end = informed_length(frames, compute.squeeze) if chunk.keep_to is None else chunk.keep_to
    return slice(chunk.keep_from, end)
