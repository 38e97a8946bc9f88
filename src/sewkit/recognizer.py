"""From sound to text: load -> chunk -> batch -> logits -> decode -> stitch.

asr = sewkit.load()
asr.transcribe("call.mp3").text
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sewkit import chunks
from sewkit.audio import SAMPLE_RATE, AudioError, AudioSource, source_name, stream_audio
from sewkit.checkpoint import LoadedModel, load_model, save_model
from sewkit.compute import Compute, operating_points, resolve
from sewkit.config import ModelConfig
from sewkit.decode import FrameLabels, FrameTiming, best_labels, decode_words
from sewkit.errors import UserError
from sewkit.lengths import hop_samples, informed_length, num_frames, receptive_field
from sewkit.runtime import Runtime, batches_by_size
from sewkit.transcript import Transcript, segment_words

BUNDLED = "sew-words"
"""The model that comes with the package."""
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 10.0, 240.0
"""Sound that shares a batch unless the caller says: a CPU gains nothing from long clips side by side, a GPU does."""
LOOKAHEAD_BATCHES = 8
"""Batches' worth of sound read ahead, so that clips of like length share a batch."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    source: str | os.PathLike[str] = BUNDLED,
    *,
    device: str | None = None,
    dtype: str = "float32",
    runtime: str = "auto",
    threads: int | None = None,
    architecture: str | os.PathLike[str] | None = None,
) -> Recognizer:
    """A model ready to use.

    source: hub id, folder in transformers' layout, original `.pt` file, or a bundled model's name (the default one
    works offline). device: "cpu", "cuda", "cuda:1", "mps"; None takes a GPU where there is one. dtype: "float32",
    "bfloat16" or "float16". runtime: "auto" or "torch". threads: CPU threads for this process. architecture: for
    original fine-tuned files that lack theirs, a name in `sewkit.PUBLISHED` or a file.

    Raises UserError (a ValueError) if the model can't be found, read or run here.
    """
    from sewkit.runtime.pytorch import TorchRuntime, pick_device

    if runtime not in ("auto", "torch"):
        raise UserError(f"runtime {runtime!r} is not known; expected auto or torch")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")
    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    loaded = load_model(source, architecture)
    batch_seconds = CPU_BATCH_SECONDS if where.type == "cpu" else GPU_BATCH_SECONDS
    return Recognizer(loaded, TorchRuntime(loaded.model, where, DTYPES[dtype]), str(source), batch_seconds)


class Recognizer:
    """A loaded model with everything that turns sound into text and back into a folder."""

    def __init__(self, loaded: LoadedModel, runtime: Runtime, name: str, batch_seconds: float = CPU_BATCH_SECONDS):
        self.loaded = loaded
        self.runtime = runtime
        self.name = name
        self.batch_seconds = batch_seconds

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self.runtime.config

    @property
    def compute_options(self) -> tuple[Compute, ...]:
        """The operating points this model can run at, cheapest first."""
        return operating_points(self.config)

    def transcribe(
        self,
        source: AudioSource,
        *,
        compute: Compute | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """Transcribe one recording of any length: path, bytes, file object, or float32 array at 16 kHz.

        `on_progress` is called with the seconds of sound done since its last call. Raises AudioError.
        """
        return next(self.transcribe_batch([source], compute=compute, on_progress=on_progress))

    def transcribe_batch(
        self,
        sources: Iterable[AudioSource],
        *,
        compute: Compute | None = None,
        on_progress: Callable[[float], None] | None = None,
        on_error: Callable[[AudioError], None] | None = None,
    ) -> Iterator[Transcript]:
        """Transcripts in the order of `sources`, computed in batches of `batch_seconds` of sound with bounded memory.

        A recording that can't be read is handed to `on_error` and left out; without `on_error` its AudioError is
        raised after the recordings before it.
        """
        for outcome in self._outcomes(sources, resolve(self.config, compute), on_progress):
            if isinstance(outcome, Transcript):
                yield outcome
            elif on_error is not None:
                on_error(outcome)
            else:
                raise outcome

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """Letter scores (num_frames, vocab), one float32 array a waveform at 16 kHz; never chunked."""
        if self.config.vocab_size is None:
            raise UserError(f"{self.name} has no CTC head, so it has no logits: fine-tune it first, or use encode()")
        return self._in_batches(self.runtime.logits, waveforms, compute)

    def encode(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """Encoder output (num_frames, hidden), one float32 array a waveform at 16 kHz; works without a head."""
        return self._in_batches(self.runtime.encode, waveforms, compute)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json, model.safetensors, tokenizer and preprocessor files, as transformers loads them."""
        save_model(folder, self.loaded.model, self.loaded.alphabet, self.loaded.labels)

    def _in_batches(
        self,
        run: Callable[[Sequence[np.ndarray], Compute | None], list[np.ndarray]],
        waveforms: Sequence[np.ndarray],
        compute: Compute | None,
    ) -> list[np.ndarray]:
        results: list[np.ndarray] = [np.zeros(0)] * len(waveforms)
        for batch in batches_by_size([len(waveform) for waveform in waveforms], self._batch_samples()):
            outputs = run([waveforms[index] for index in batch], compute)
            for index, output in zip(batch, outputs, strict=True):
                results[index] = output
        return results

    def _batch_samples(self) -> int:
        return int(self.batch_seconds * SAMPLE_RATE)

    def _outcomes(
        self, sources: Iterable[AudioSource], compute: Compute, on_progress: Callable[[float], None] | None
    ) -> Iterator[Transcript | AudioError]:
        if self.loaded.alphabet is None:
            raise UserError(f"{self.name} has no letters: fine-tune it to transcribe, or use encode() or logits()")
        queue: deque[_Recording] = deque()
        waiting: list[_Piece] = []
        waiting_samples = 0
        for source in sources:
            recording = _Recording(source_name(source))
            queue.append(recording)
            for piece in self._pieces(source, recording):
                waiting.append(piece)
                waiting_samples += len(piece.chunk.samples)
                if waiting_samples >= LOOKAHEAD_BATCHES * self._batch_samples():
                    self._run(waiting, compute, on_progress)
                    waiting, waiting_samples = [], 0
            while queue and queue[0].is_done():
                yield self._outcome(queue.popleft(), compute)
        self._run(waiting, compute, on_progress)
        while queue:
            yield self._outcome(queue.popleft(), compute)

    def _pieces(self, source: AudioSource, recording: _Recording) -> Iterator[_Piece]:
        """Chunks of one recording; an error on the way is noted with it and ends it."""
        blocks = recording.measured(stream_audio(source))
        try:
            for chunk in chunks.split(blocks, chunks.ChunkPlan.for_model(self.config)):
                recording.labels.append(None)
                yield _Piece(recording, len(recording.labels) - 1, chunk)
        except AudioError as error:
            recording.error = error
        recording.is_read = True

    def _run(self, pieces: list[_Piece], compute: Compute, on_progress: Callable[[float], None] | None) -> None:
        """Logits of all pieces in batches, kept as the best label of each frame."""
        for batch in batches_by_size([len(piece.chunk.samples) for piece in pieces], self._batch_samples()):
            logits = self.runtime.logits([pieces[index].chunk.samples for index in batch], compute)
            for index, scores in zip(batch, logits, strict=True):
                self._keep(pieces[index], scores, compute)
                if on_progress is not None:
                    on_progress(pieces[index].new_seconds(hop_samples(self.config.conv_layers)))

    def _keep(self, piece: _Piece, logits: np.ndarray, compute: Compute) -> None:
        """Note the labels of the frames that this chunk answers for. SEW's zero tail carries no sound: left out."""
        frames = num_frames(len(piece.chunk.samples), self.config.conv_layers)
        end = informed_length(frames, compute.squeeze) if piece.chunk.keep_to is None else piece.chunk.keep_to
        piece.recording.labels[piece.index] = best_labels(logits[piece.chunk.keep_from : end])

    def _outcome(self, recording: _Recording, compute: Compute) -> Transcript | AudioError:
        if recording.error is not None:
            return recording.error
        assert self.loaded.alphabet is not None
        labels = FrameLabels.concatenate([piece for piece in recording.labels if piece is not None])
        layers = self.config.conv_layers
        timing = FrameTiming(hop_samples(layers), receptive_field(layers), SAMPLE_RATE)
        words = decode_words(labels, self.loaded.alphabet, timing)
        segments = segment_words(words)
        duration = recording.num_samples / SAMPLE_RATE
        text = " ".join(word.text for word in words)
        return Transcript(text, words, segments, duration, compute, recording.name)


@dataclass
class _Recording:
    """What is known of a recording while its chunks are on their way."""

    name: str
    num_samples: int = 0
    is_read: bool = False
    error: AudioError | None = None
    labels: list[FrameLabels | None] = field(default_factory=list)

    def measured(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, their samples counted."""
        for block in blocks:
            self.num_samples += len(block)
            yield block

    def is_done(self) -> bool:
        return self.error is not None or (self.is_read and all(labels is not None for labels in self.labels))


@dataclass(frozen=True)
class _Piece:
    """The chunk with number `index` of a recording."""

    recording: _Recording
    index: int
    chunk: chunks.Chunk

    def new_seconds(self, hop: int) -> float:
        """Seconds of the recording that this chunk answers for."""
        end = len(self.chunk.samples) if self.chunk.keep_to is None else self.chunk.keep_to * hop
        return (end - self.chunk.keep_from * hop) / SAMPLE_RATE
