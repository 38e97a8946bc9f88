"""From sound to text or class: load -> chunk -> batch -> logits -> decode -> stitch.

asr = sewkit.load()
asr.transcribe("call.mp3").text

voices = sewkit.load("my-classifier")
voices.classify("call.mp3").label
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from sewkit import memory, tasks
from sewkit.audio import SAMPLE_RATE, AudioError, AudioSource, source_name, stream_audio
from sewkit.checkpoint import LoadedModel, load_model, save_loaded, with_weights
from sewkit.classification import Classification
from sewkit.compute import FAST, Compute, Refinement
from sewkit.config import ModelConfig
from sewkit.decode import BeamSearch, Decoder, FusionWeights, GreedySearch, Pruning
from sewkit.decode.lm import LanguageModel
from sewkit.decode.lm.folder import find_lm, store_lm
from sewkit.decode.spelling import Reference, spell
from sewkit.errors import MissingExtraError, UserError
from sewkit.lengths import hop_samples
from sewkit.pieces import Kept, Piece, Result, Stitched, Task, delivered
from sewkit.pipeline import Batching, outcomes
from sewkit.refine import TwoPasses
from sewkit.runtime import Runtime, batches_by_size
from sewkit.segments import Segmentation
from sewkit.streaming import Final, Stream
from sewkit.text import Alphabet
from sewkit.transcript import Alignment, Segment, Transcript

BUNDLED = "sew-words"
"""The model that comes with the package."""
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 10.0, 240.0
"""Sound that shares a batch unless the caller says: a CPU gains nothing from long clips side by side, a GPU does."""
MAX_WORKERS = 8
"""Batches that run side by side unless the caller says; each holds its activations."""


def load(
    source: str | os.PathLike[str] = BUNDLED,
    *,
    device: str | None = None,
    dtype: str = "float32",
    runtime: str = "auto",
    threads: int | None = None,
    architecture: str | os.PathLike[str] | None = None,
    lm: str | os.PathLike[str] | None = None,
) -> Recognizer:
    """A model ready to use.

    source: hub id, folder in transformers' layout or of `sewkit export`, original `.pt` file, or a bundled model's
    name (the default one works offline). device: "cpu", "cuda", "cuda:1", "mps"; None takes a GPU where there is
    one. dtype: "float32", "bfloat16" or "float16". runtime: "auto", "torch", "openvino" or "onnx", see
    `make_runtime`. threads: CPU threads for this process. architecture: for original fine-tuned files that lack
    theirs, a name in `sewkit.PUBLISHED` or a file. lm: an n-gram language model of words, an ARPA file or a KenLM
    binary; None takes the one in the model's folder, if there is one.

    Raises UserError (a ValueError) if the model can't be found, read or run here.
    """
    from sewkit.runtime.export import make_runtime
    from sewkit.runtime.pytorch import TorchRuntime

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(source, architecture, exported=True)
    run = make_runtime(loaded, runtime, device, dtype)
    batch_seconds = CPU_BATCH_SECONDS if run.device.type == "cpu" else GPU_BATCH_SECONDS
    if isinstance(run, TorchRuntime) and loaded.folder is not None:
        loaded = loaded.without_weights()
        memory.give_back()
    asr = Recognizer(loaded, run, str(source), batch_seconds)
    if lm is not None:
        asr.decoder = asr.beam_search(lm)
    elif loaded.alphabet is not None and loaded.folder is not None:
        asr.decoder = _stored_search(loaded.alphabet, loaded.folder) or asr.decoder
    return asr


def _stored_search(alphabet: Alphabet, folder: Path) -> BeamSearch | None:
    """With the language model that lies with a model; None, with a warning, where a package lacks to read it."""
    if (stored := find_lm(folder)) is None:
        return None
    try:
        return BeamSearch(alphabet, lm=stored.path, weights=stored.weights, words=stored.words)
    except MissingExtraError as error:
        warnings.warn(f"decoding greedily, without the model's language model: {error}", stacklevel=3)
        return None


class Chooser(Protocol):
    """Something hashable that finds an operating point for a recognizer where it runs, such as `sewkit.Budget`."""

    def choose(self, asr: Recognizer, /) -> Compute:
        """One of the points of `asr`. Raises UserError where none will do."""


ComputeRequest = Compute | Chooser | str | None
"""An operating point by value; by budget; by name ("full", "balanced", "fast") or as text; None is the dearest."""


class Recognizer:
    """A loaded model with everything that turns sound into text or classes, and back into a folder."""

    def __init__(self, loaded: LoadedModel, runtime: Runtime, name: str, batch_seconds: float = CPU_BATCH_SECONDS):
        self.loaded = loaded
        self.runtime = runtime
        self.name = name
        self.batch_seconds = batch_seconds
        self.decoder: Decoder = GreedySearch()
        """What `transcribe` uses unless it is handed another."""
        self.workers: int | None = None
        """Batches that run side by side, each with its share of the CPU threads; None: as many as the runtime likes."""
        self._chosen: dict[Chooser, Compute] = {}

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self.runtime.config

    @property
    def compute_options(self) -> tuple[Compute, ...]:
        """The operating points of this model: the fastest of its measured curve first, without one by MACs."""
        return self.loaded.compute_options

    def resolve(self, compute: ComputeRequest) -> Compute:
        """The operating point that a request means here; None is the dearest. A budget is decided once.

        Raises UserError where the model has no such point.
        """
        if isinstance(compute, Compute | str | None):
            return self.loaded.resolve(compute)
        if not hasattr(compute, "choose"):
            raise TypeError(f"compute must be a name, a Compute or a Budget, not {type(compute).__name__}")
        if compute not in self._chosen:
            self._chosen[compute] = compute.choose(self)
        return self._chosen[compute]

    def beam_search(
        self,
        lm: LanguageModel | str | os.PathLike[str] | None = None,
        *,
        weights: FusionWeights | None = None,
        hotwords: Mapping[str, float] | Iterable[str] = (),
        pruning: Pruning | None = None,
    ) -> BeamSearch:
        """A search over this model's letters, to hand to `transcribe` or to keep as `decoder`.

        lm: as in `load`; None takes the language model of the present decoder, with its weights and words. hotwords:
        words or phrases to favour, a dict with natural-log weights or a list. Raises UserError, see `BeamSearch`.
        """
        alphabet, words = self._alphabet(), None
        if lm is None and isinstance(self.decoder, BeamSearch):
            lm, words = self.decoder.lm, self.decoder.words
            weights = weights or self.decoder.weights
        return BeamSearch(alphabet, lm=lm, weights=weights, hotwords=hotwords, words=words, pruning=pruning)

    def transcribe(
        self,
        source: AudioSource,
        *,
        compute: ComputeRequest = None,
        decoder: Decoder | None = None,
        segmentation: Segmentation | None = None,
        refine: Refinement | bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """Transcribe one recording of any length: path, bytes, file object, or float32 array at 16 kHz.

        `decoder` takes the place of the recognizer's own, see `beam_search`. With a `segmentation` the recording is
        cut in its pauses, not into overlapping chunks: the words are those of `stream`, and each of the transcript's
        segments is one of the cut. With `refine` stretches that `compute`, by default the model's calibrated point, is
        unsure of are heard again at full compute: True for the threshold that sewkit sweep --refine --store found,
        or a `sewkit.Refinement`. `on_progress` is called with the seconds of sound done since its last call. Raises
        AudioError.
        """
        return next(
            self.transcribe_batch(
                [source],
                compute=compute,
                decoder=decoder,
                segmentation=segmentation,
                refine=refine,
                on_progress=on_progress,
            )
        )

    def transcribe_batch(
        self,
        sources: Iterable[AudioSource],
        *,
        compute: ComputeRequest = None,
        decoder: Decoder | None = None,
        segmentation: Segmentation | None = None,
        refine: Refinement | bool = False,
        on_progress: Callable[[float], None] | None = None,
        on_error: Callable[[AudioError], None] | None = None,
    ) -> Iterator[Transcript]:
        """Transcripts in the order of `sources`, computed in batches of `batch_seconds` of sound with bounded memory.

        Threads read ahead and run batches side by side, see `sewkit.pipeline`, until the iterator ends or is closed. A
        recording that can't be read is handed to `on_error` and left out; without `on_error` its AudioError is
        raised after the recordings before it. With a `segmentation`, see `transcribe`, nothing shares a batch.
        """
        compute, refinement = self._passes(compute, refine)
        decoder = decoder or self.decoder
        if segmentation is not None and refinement is not None:
            raise UserError("refine hears chunks, not segments cut in pauses: leave out one of the two")
        if segmentation is None:
            made = self._outcomes(sources, self.transcription(compute, decoder, refinement), on_progress)
        else:
            made = (self._in_segments(source, compute, decoder, segmentation, on_progress) for source in sources)
        yield from delivered(made, on_error)

    def stream(
        self,
        *,
        compute: ComputeRequest = None,
        decoder: Decoder | None = None,
        segmentation: Segmentation | None = None,
        sample_rate: int = SAMPLE_RATE,
        partials: bool = True,
    ) -> Stream:
        """Open a live signal: feed it blocks of samples, get partial and final words, see `sewkit.streaming`.

        compute, decoder: for final words, as in `transcribe`. segmentation: how pauses are found, and at which
        operating point partial words are. sample_rate: of the blocks. partials: False for final words only.
        Raises UserError.
        """
        segmentation = segmentation or Segmentation()
        return Stream(
            self.runtime,
            self._alphabet(),
            decoder or self.decoder,
            compute=self.resolve(compute),
            segmentation=replace(segmentation, compute=self.resolve(segmentation.compute or FAST)),
            sample_rate=sample_rate,
            partials=partials,
        )

    def align(
        self,
        source: AudioSource,
        text: str,
        *,
        compute: ComputeRequest = None,
        snap: bool = True,
        on_progress: Callable[[float], None] | None = None,
    ) -> Alignment:
        """Find when each word of a known text is spoken in a recording of any length.

        The text may have any case and punctuation. Its words come back as written, with scores and the times of their
        characters; those that the recording does not seem to hold are marked `missing`. With `snap` words begin and end
        with the sound around their letters; without, with the frames in which the model gives their letters, which lie
        further in. Raises UserError for a text that is empty or cannot be spelled; AudioError also for one too long.
        """
        return next(self.align_batch([(source, text)], compute=compute, snap=snap, on_progress=on_progress))

    def align_batch(
        self,
        pairs: Iterable[tuple[AudioSource, str]],
        *,
        compute: ComputeRequest = None,
        snap: bool = True,
        on_progress: Callable[[float], None] | None = None,
        on_error: Callable[[AudioError], None] | None = None,
    ) -> Iterator[Alignment]:
        """Alignments of (source, text) in order; batches and errors as in `transcribe_batch`.

        Memory grows by about 70 MB for each hour of a recording. A text that is empty or cannot be spelled is raised at
        once.
        """
        alphabet = self._alphabet()
        references: dict[int, Reference] = {}

        def sources() -> Iterator[AudioSource]:
            for number, (source, text) in enumerate(pairs):
                references[number] = spell(text, alphabet)
                yield source

        task = tasks.alignment(self.runtime, references, self.resolve(compute), snap)
        made = self._outcomes(sources(), task, on_progress)
        yield from delivered(made, on_error)

    def classify(
        self,
        source: AudioSource,
        *,
        compute: ComputeRequest = None,
        top: int | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Classification:
        """Say what a recording is (whose voice, what wish, which language: what the model was fine-tuned for).

        Takes what `transcribe` takes. `top` keeps the best classes only. Up to 30 seconds are heard in one piece. A
        longer recording is cut into pieces of 30 seconds whose scores are averaged, each weighted by its frames, which
        is how the head averages frames: every second counts the same, and memory stays bounded.
        Raises AudioError, also for a recording too short to hold a frame.
        """
        return next(self.classify_batch([source], compute=compute, top=top, on_progress=on_progress))

    def classify_batch(
        self,
        sources: Iterable[AudioSource],
        *,
        compute: ComputeRequest = None,
        top: int | None = None,
        on_progress: Callable[[float], None] | None = None,
        on_error: Callable[[AudioError], None] | None = None,
    ) -> Iterator[Classification]:
        """Classifications in the order of `sources`; batches, memory and errors as in `transcribe_batch`."""
        labels = self._labels()
        if top is not None and top < 1:
            raise UserError(f"top is {top}; expected the number of classes to give, at least 1")
        task = tasks.classification(self.runtime, labels, self.resolve(compute), top)
        made = self._outcomes(sources, task, on_progress)
        yield from delivered(made, on_error)

    def logits(self, waveforms: Sequence[np.ndarray], compute: ComputeRequest = None) -> list[np.ndarray]:
        """Letter scores (num_frames, vocab), one float32 array a waveform at 16 kHz; never chunked."""
        if self.config.vocab_size is None:
            raise UserError(f"{self.name} has no CTC head, so it has no logits: fine-tune it first, or use encode()")
        return self._in_batches(self.runtime.logits, waveforms, compute)

    def encode(self, waveforms: Sequence[np.ndarray], compute: ComputeRequest = None) -> list[np.ndarray]:
        """Encoder output (num_frames, hidden), one float32 array a waveform at 16 kHz; works without a head."""
        return self._in_batches(self.runtime.encode, waveforms, compute)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json, model.safetensors, tokenizer and preprocessor files, as transformers loads them.

        The decoder's language model goes with them, with its weights and words. Raises UserError where it was built in
        memory, CheckpointError where the folder that the model was loaded from, and is read from again, has changed.
        """
        search, loaded = self.decoder, with_weights(self.loaded)
        if not isinstance(search, BeamSearch) or search.lm is None:
            save_loaded(folder, loaded)
        elif search.lm.path is None:
            raise UserError("the language model was built in memory: write it with write_arpa, and load that file")
        else:
            save_loaded(folder, loaded)
            store_lm(folder, search.lm.path, search.weights, search.symbols.alphabet, search.words)

    def _in_batches(
        self,
        run: Callable[[Sequence[np.ndarray], Compute | None], list[np.ndarray]],
        waveforms: Sequence[np.ndarray],
        compute: ComputeRequest,
    ) -> list[np.ndarray]:
        point = self.resolve(compute)
        results: list[np.ndarray] = [np.zeros(0)] * len(waveforms)
        for batch in batches_by_size([len(waveform) for waveform in waveforms], self._batch_samples()):
            outputs = run([waveforms[index] for index in batch], point)
            for index, output in zip(batch, outputs, strict=True):
                results[index] = output
        return results

    def _batch_samples(self) -> int:
        return int(self.batch_seconds * SAMPLE_RATE)

    def _passes(self, compute: ComputeRequest, refine: Refinement | bool) -> tuple[Compute, Refinement | None]:
        """The point of the only or first pass, and what is heard again. Raises UserError where that is not known."""
        if refine is False:
            return self.resolve(compute), None
        if not self.config.is_stochastic:
            raise UserError(f"{self.name} has one operating point, {self.resolve(None)}: leave out refine")
        if isinstance(refine, Refinement):
            return self.resolve(FAST if compute is None else compute), refine
        found = self.loaded.curve and self.loaded.curve.refined(None if compute is None else self.resolve(compute))
        if not found:
            start = "" if compute is None else f" from {compute}"
            raise UserError(
                f"{self.name} has no calibrated threshold for two passes{start}: "
                "find it with sewkit sweep MODEL DATA --refine --store, or give a sewkit.Refinement"
            )
        return found.compute, found.refinement

    def transcription(
        self, compute: Compute, decoder: Decoder, refinement: Refinement | None = None
    ) -> Task[Stitched, Transcript]:
        """What `transcribe` does with a recording, for those who run its chunks in batches of their own."""
        alphabet, passes = self._alphabet(), None
        if refinement is not None:
            second = self.resolve(refinement.compute)
            passes = TwoPasses(self.runtime, compute, second, refinement, alphabet.silent)
        return tasks.transcription(self.runtime, alphabet, decoder, compute, passes)

    def _in_segments(
        self,
        source: AudioSource,
        compute: Compute,
        decoder: Decoder,
        segmentation: Segmentation,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript | AudioError:
        """The recording as a stream hears it."""
        stream = self.stream(compute=compute, decoder=decoder, segmentation=segmentation, partials=False)
        finals: list[Final] = []
        try:
            for block in stream_audio(source):
                finals += [event for event in stream.feed(block) if isinstance(event, Final)]
                if on_progress is not None:
                    on_progress(len(block) / SAMPLE_RATE)
        except AudioError as error:
            return error
        finals += stream.finish()
        segments = [
            Segment(final.text, final.words[0].start, final.words[-1].end, final.words)
            for final in finals
            if final.words
        ]
        words = [word for segment in segments for word in segment.words]
        text = " ".join(segment.text for segment in segments)
        return Transcript(text, words, segments, stream.seconds, compute, source_name(source))

    def _alphabet(self) -> Alphabet:
        """Raises UserError for a model without letters."""
        if self.loaded.alphabet is not None:
            return self.loaded.alphabet
        if self.config.num_labels is not None:
            found = f"classifies recordings ({self.config.num_labels} labels), it does not transcribe: use classify"
        else:
            found = "has no letters: fine-tune it to transcribe, or use encode() or logits()"
        raise UserError(f"{self.name} {found}")

    def _labels(self) -> Sequence[str]:
        """Raises UserError for a model without classes."""
        if self.loaded.labels is not None:
            return self.loaded.labels
        if self.config.vocab_size is not None:
            found = "transcribes, it does not classify: use transcribe, or a model fine-tuned with labels"
        elif self.config.num_labels is not None:
            found = "has no names for its classes: save it with labels"
        else:
            found = "has no classification head: fine-tune it with labels first, or use encode()"
        raise UserError(f"{self.name} {found}")

    def _outcomes(
        self,
        sources: Iterable[AudioSource],
        task: Task[Kept, Result],
        on_progress: Callable[[float], None] | None,
    ) -> Iterator[Result | AudioError]:
        hop = hop_samples(self.config.conv_layers)

        def on_done(piece: Piece[Kept]) -> None:
            if on_progress is not None:
                on_progress(piece.new_seconds(hop))

        workers = self.workers or min(getattr(self.runtime, "workers", 1), MAX_WORKERS)
        return outcomes(sources, task, Batching(self._batch_samples(), workers), on_done)
