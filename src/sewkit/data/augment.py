"""Augmentation of waveforms (float32, 16 kHz), every draw from a numpy Generator handed in.

Per word: speed (resampling, so pitch and formants move too: a new voice) and gain. Per string: one filter that holds
a room, a telephone band and a random tilt, then noise at a random signal-to-noise ratio, then gain.
"""

from pathlib import Path

import numpy as np
import soxr
from pydantic import BaseModel, ConfigDict

from sewkit.audio import SAMPLE_RATE, load_audio
from sewkit.data.manifest import ManifestError, read_json_lines

MAX_ROOM_SECONDS = 0.5
"""Impulse responses are cut here: what follows is below the noise and costs time."""


class Augmentation(BaseModel):
    """Ranges and probabilities; the defaults change nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speed: tuple[float, float] = (1.0, 1.0)
    """Range of the speed factor, drawn log-uniformly."""
    string_speed: tuple[float, float] = (1.0, 1.0)
    """A further factor shared by the words of a string."""
    word_gain_db: tuple[float, float] = (0.0, 0.0)
    trim_probability: float = 0.0
    """How often the silence around a word is cut off before joining."""
    room_probability: float = 0.0
    telephone_probability: float = 0.0
    """How often everything above 3.2 to 4 kHz is removed."""
    tilt_db: float = 0.0
    """Largest deviation of a smooth random equaliser curve."""
    noise_probability: float = 0.0
    snr_db: tuple[float, float] = (5.0, 30.0)
    gain_db: tuple[float, float] = (0.0, 0.0)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """(S,) -> about (S / factor,): faster and higher for factor > 1."""
    if factor == 1.0 or samples.size == 0:
        return samples
    return soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="LQ").astype(np.float32)


def sound_span(samples: np.ndarray, below_db: float = 30.0) -> tuple[int, int]:
    """(first sample, end) of what lies between the first and last 10 ms less than `below_db` under the loudest."""
    hop = SAMPLE_RATE // 100
    num_hops = samples.size // hop
    if num_hops == 0:
        return 0, samples.size
    energy = np.square(samples[: num_hops * hop]).reshape(num_hops, hop).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-below_db / 10))
    return int(loud[0]) * hop, (int(loud[-1]) + 1) * hop


def trim_silence(samples: np.ndarray, below_db: float = 30.0, keep_seconds: float = 0.05) -> np.ndarray:
    """Cut the ends outside `sound_span`; `keep_seconds` stay on each side."""
    keep = int(keep_seconds * SAMPLE_RATE)
    first, end = sound_span(samples, below_db)
    return samples[max(first - keep, 0) : end + keep]


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise (S,) so that the ratio to the signal's LOUD half (pauses do not count) is `snr_db`."""
    level = _loud_power(samples)
    scale = np.sqrt(level / max(float(np.mean(np.square(noise))), 1e-12) * 10 ** (-snr_db / 10))
    return samples + np.float32(scale) * noise


def _loud_power(samples: np.ndarray) -> float:
    """Mean power of the louder half of the 20 ms blocks that are not silent; of quiet room noise if all are."""
    hop = SAMPLE_RATE // 50
    blocks = np.square(samples[: samples.size // hop * hop]).reshape(-1, hop).mean(axis=1)
    heard = np.sort(blocks[blocks > 1e-8])
    return float(heard[heard.size // 2 :].mean()) if heard.size else 1e-4


def gain(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Scale; what would exceed full scale is scaled back so that nothing clips."""
    scaled = samples * np.float32(10 ** (decibels / 20))
    peak = float(np.abs(scaled).max(initial=0.0))
    return scaled / np.float32(peak) if peak > 1.0 else scaled


class Augmenter:
    """Applies an `Augmentation` with the given noises and impulse responses."""

    def __init__(
        self, settings: Augmentation, noises: list[np.ndarray] | None = None, rooms: list[np.ndarray] | None = None
    ) -> None:
        self.settings = settings
        self.noises = noises or []
        self.rooms = [_room(response) for response in rooms or []]

    def word(self, samples: np.ndarray, generator: np.random.Generator, string_speed: float = 1.0) -> np.ndarray:
        """One word before it is joined."""
        settings = self.settings
        if generator.random() < settings.trim_probability:
            samples = trim_silence(
                samples, below_db=generator.uniform(25, 40), keep_seconds=generator.uniform(0.02, 0.1)
            )
        samples = change_speed(samples, self.draw_speed(settings.speed, generator) * string_speed)
        return gain(samples, generator.uniform(*settings.word_gain_db))

    def utterance(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A recorded utterance: what happens to a word, then what happens to a string."""
        speed = self.draw_speed(self.settings.string_speed, generator)
        return self.string(self.word(samples, generator, speed), generator)

    @property
    def longest_stretch(self) -> float:
        """By how much the slowest speed makes an utterance longer, at least 1."""
        return max(1.0, 1 / (self.settings.speed[0] * self.settings.string_speed[0]))

    def string(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One string after joining."""
        settings = self.settings
        samples = self._filter(samples, generator)
        if generator.random() < settings.noise_probability:
            samples = add_noise(samples, self._noise(samples.size, generator), generator.uniform(*settings.snr_db))
        return gain(samples, generator.uniform(*settings.gain_db))

    @staticmethod
    def draw_speed(bounds: tuple[float, float], generator: np.random.Generator) -> float:
        """A factor, log-uniform between the bounds."""
        low, high = bounds
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))

    def _filter(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Room, telephone band and tilt as ONE product in the frequency domain."""
        settings = self.settings
        room = bool(self.rooms) and generator.random() < settings.room_probability
        telephone = generator.random() < settings.telephone_probability
        if not (room or telephone or settings.tilt_db) or samples.size == 0:
            return samples
        size = _fast_length(samples.size + int(MAX_ROOM_SECONDS * SAMPLE_RATE))
        spectrum = np.fft.rfft(samples, size)
        frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
        if room:
            spectrum = spectrum * np.fft.rfft(self.rooms[int(generator.integers(len(self.rooms)))], size)
        if telephone:
            spectrum = spectrum * _low_pass(frequencies, generator.uniform(3200, 4000))
        if settings.tilt_db:
            spectrum = spectrum * _random_equaliser(frequencies, settings.tilt_db, generator)
        return np.fft.irfft(spectrum, size)[: samples.size].astype(np.float32)

    def _noise(self, num_samples: int, generator: np.random.Generator) -> np.ndarray:
        """A stretch of a recorded noise, or coloured noise when a coin says so."""
        if not self.noises or generator.random() < 0.3:
            return coloured_noise(num_samples, generator.uniform(0.0, 2.0), generator)
        noise = self.noises[int(generator.integers(len(self.noises)))]
        start = int(generator.integers(noise.size))
        return np.take(noise, np.arange(start, start + num_samples), mode="wrap")


def coloured_noise(num_samples: int, exponent: float, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise (S,) with power falling as 1 / frequency**exponent above 50 Hz."""
    size = _fast_length(num_samples)
    spectrum = np.fft.rfft(generator.standard_normal(size, dtype=np.float32))
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50.0).astype(np.float32)
    return np.fft.irfft(spectrum * frequencies ** np.float32(-exponent / 2), size)[:num_samples].astype(np.float32)


def read_noises(path: Path, split: str = "train") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(noises, impulse responses) of a manifest with `audio`, `kind` (noise or rir) and `split`."""
    found: dict[str, list[np.ndarray]] = {"noise": [], "rir": []}
    for place, row in read_json_lines(path):
        if row.get("kind") not in found or "audio" not in row:
            raise ManifestError(f"{place}: expected audio and kind (noise or rir)")
        if row.get("split") == split:
            found[row["kind"]].append(load_audio(path.parent / row["audio"]))
    return found["noise"], found["rir"]


def _room(response: np.ndarray) -> np.ndarray:
    """Start at the direct sound, cut, and keep the energy of a dry signal."""
    response = response[int(np.abs(response).argmax()) :][: int(MAX_ROOM_SECONDS * SAMPLE_RATE)]
    return (response / np.sqrt(np.square(response).sum())).astype(np.float32)


def _low_pass(frequencies: np.ndarray, cutoff: float) -> np.ndarray:
    """1 below the cutoff, 0 above, over 10 % of it."""
    return np.clip((cutoff * 1.1 - frequencies) / (cutoff * 0.1), 0.0, 1.0).astype(np.float32)


def _random_equaliser(frequencies: np.ndarray, largest_db: float, generator: np.random.Generator) -> np.ndarray:
    """Gains through six random points, smooth over a logarithmic frequency axis."""
    points = np.log(np.array([50, 200, 600, 1500, 3500, 8000], dtype=np.float64))
    decibels = generator.uniform(-largest_db, largest_db, size=points.size)
    curve = np.interp(np.log(np.maximum(frequencies, 50.0)), points, decibels)
    return (10 ** (curve / 20)).astype(np.float32)


def _fast_length(num_samples: int) -> int:
    """The next length that is a small odd number times a power of two: cheap to transform."""
    sizes = [odd << max(0, (-(-num_samples // odd) - 1).bit_length()) for odd in (1, 3, 5)]
    return min(sizes)
