"""Measure segmentation and live transcription on long recordings: strings joined with silence between them.

For each list: errors in overlapping chunks (the default), in segments cut at pauses, and of live finals, which are to
be the same words; the times of all three; how long after a word its partial and its final come. Latency is in seconds
of sound, plus the median time that the machine takes for a call that gives a partial or a final.

    python recipes/bundled/measure_streaming.py recipes/bundled/dev-*.jsonl --data-root data
    python recipes/bundled/measure_streaming.py recipes/bundled/dev-*.jsonl --data-root data --noise-db 20
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import sewkit
from sewkit.audio import SAMPLE_RATE
from sewkit.data.augment import add_noise, coloured_noise
from sewkit.data.manifest import load_utterance, read_manifest
from sewkit.evaluate.wer import wer_with_interval

GAP_SECONDS = (0.6, 2.5)
FLOOR = 5e-4
"""Amplitude of the white noise under everything: digital silence is not what microphones give."""
BLOCK_SECONDS = 0.1


@dataclass
class LiveRun:
    """What a stream gave, and when."""

    finals: list[sewkit.Final] = field(default_factory=list)
    partial_delays: list[float] = field(default_factory=list)
    final_delays: list[float] = field(default_factory=list)
    partial_seconds: list[float] = field(default_factory=list)
    final_seconds: list[float] = field(default_factory=list)

    def take(self, event: sewkit.Partial | sewkit.Final, heard: float, seconds: float, shown: dict[int, float]) -> None:
        """An event of a call that took `seconds`, after `heard` seconds of sound. shown: when each word came first."""
        if isinstance(event, sewkit.Partial):
            self.partial_seconds.append(seconds)
            for place in range(len(event.words)):
                shown.setdefault(place, heard)
            return
        self.final_seconds.append(seconds)
        self.finals.append(event)
        for place, word in enumerate(event.words):
            if place in shown:
                self.partial_delays.append(max(0.0, shown[place] - word.end))
        if event.words:
            self.final_delays.append(heard - event.words[-1].end)
        shown.clear()


def recording(path: Path, root: Path, noise_db: float | None) -> tuple[np.ndarray, str]:
    """(samples, text) of a list's strings one after the other."""
    generator = np.random.default_rng(0)
    pieces, texts = [], []
    for row in read_manifest(path, root=root):
        pieces += [np.zeros(int(generator.uniform(*GAP_SECONDS) * SAMPLE_RATE), np.float32), load_utterance(row)]
        texts.append(row.text)
    samples = np.concatenate(pieces)
    samples = (samples + FLOOR * generator.standard_normal(samples.size)).astype(np.float32)
    if noise_db is not None:
        samples = add_noise(samples, coloured_noise(samples.size, 1.0, generator), noise_db)
    return samples, " ".join(texts)


def listen(asr: sewkit.Recognizer, samples: np.ndarray) -> LiveRun:
    """The recording as a microphone would give it, but as fast as it goes."""
    run, shown, size = LiveRun(), {}, int(BLOCK_SECONDS * SAMPLE_RATE)
    with asr.stream() as stream:
        for first in range(0, len(samples), size):
            began = time.perf_counter()
            events = stream.feed(samples[first : first + size])
            seconds = time.perf_counter() - began
            for event in events:
                run.take(event, stream.seconds, seconds, shown)
        for event in stream.finish():
            run.finals.append(event)
    return run


def spread(values: list[float]) -> str:
    """Median and 95th percentile."""
    return f"{np.median(values):.2f} s, 95 % within {np.quantile(values, 0.95):.2f} s"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", type=Path, nargs="+")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--noise-db", type=float, help="signal-to-noise ratio of pink noise that is added")
    arguments = parser.parse_args()
    asr = sewkit.load(arguments.model, threads=arguments.threads)
    for path in arguments.lists:
        samples, text = recording(path, arguments.data_root, arguments.noise_db)
        duration = len(samples) / SAMPLE_RATE
        hypotheses, seconds = {}, {}
        began = time.perf_counter()
        hypotheses["chunks"] = asr.transcribe(samples).text
        seconds["chunks"] = time.perf_counter() - began
        began = time.perf_counter()
        segmented = asr.transcribe(samples, segmentation=sewkit.Segmentation())
        hypotheses["segments"], seconds["segments"] = segmented.text, time.perf_counter() - began
        began = time.perf_counter()
        live = listen(asr, samples)
        hypotheses["live"] = " ".join(final.text for final in live.finals if final.words)
        seconds["live"] = time.perf_counter() - began
        print(f"{path.stem}: {duration:.0f} s, {len(text.split())} words, {len(segmented.segments)} segments")
        for name, hypothesis in hypotheses.items():
            rate = wer_with_interval([text], [hypothesis]).rate
            print(f"  {name:9} {100 * rate:5.1f} % errors, {duration / seconds[name]:5.1f} times real time")
        same = segmented.words == [word for final in live.finals for word in final.words]
        print(f"  live words and times {'are' if same else 'ARE NOT'} those of the recording")
        delays, work = spread(live.partial_delays), spread(live.partial_seconds)
        print(f"  a word's first partial comes after {delays}; {work} of work")
        print(f"  a final comes after {spread(live.final_delays)}; {spread(live.final_seconds)} of work")


if __name__ == "__main__":
    main()
