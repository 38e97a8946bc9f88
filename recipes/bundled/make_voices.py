"""Speak the words of the bundled model with Debian's synthesizers: extra TRAINING voices, never test voices.

Needs espeak-ng and flite on the path (Debian packages of those names). Every voice is an accent, a variant, a
pitch and a speed; the choice is a function of the seed, so the same packages give the same recordings.

    python recipes/bundled/make_voices.py --output data/voices
"""

import argparse
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
COMMANDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "forward", "backward", "follow"]
OTHER_WORDS = ["bed", "bird", "cat", "dog", "happy", "house", "learn", "marvin", "sheila", "tree", "visual", "wow"]

ACCENTS = ["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"]
VARIANTS = [
    *["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"],
    *["adam", "Alex", "Alicia", "Andrea", "Andy", "anika", "Annie", "antonio", "aunty", "belinda", "benjamin"],
    *["boris", "caleb", "david", "Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa", "gustave"],
    *["Henrique", "Hugo", "iven", "Jacky", "john", "klatt", "klatt2", "klatt3", "Lee", "linda", "marcelo"],
    *["Marco", "Mario", "max", "Michael", "miguel", "Mike", "norbert", "pablo", "paul", "pedro", "quincy"],
    *["rob", "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor", "zac"],
]
FLITE_VOICES = ["awb", "kal16", "rms", "slt"]
FLITE_STRETCHES = [0.8, 1.0, 1.25]


def speak_espeak(word: str, voice: str, pitch: int, words_per_minute: int) -> bytes:
    """One word as the bytes of a wav file."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "--stdout", word]
    return subprocess.run(command, check=True, capture_output=True).stdout


def speak_flite(word: str, voice: str, stretch: float, scratch: Path) -> bytes:
    """One word as the bytes of a wav file."""
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", word, "-o", str(scratch)]
    subprocess.run(command, check=True, capture_output=True)
    return scratch.read_bytes()


def to_waveform(wav: bytes) -> np.ndarray:
    """float32 at 16 kHz, peak 0.5."""
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
    samples = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    return 0.5 * samples / max(float(np.abs(samples).max()), 1e-6)


def write_voice(folder: Path, speaker: str, speak, words: list[str]) -> list[dict]:
    """Record every word of one voice; `speak(word)` gives the bytes of a wav file."""
    rows = []
    for word in words:
        samples = to_waveform(speak(word))
        if samples.size < SAMPLE_RATE // 20:
            continue
        path = Path("audio") / speaker / f"{word}.flac"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, samples, SAMPLE_RATE, subtype="PCM_16")
        intent = "digit" if word in DIGITS else "command" if word in COMMANDS else "word"
        rows.append(
            {
                "audio": path.as_posix(),
                "text": word.upper(),
                "speaker": speaker,
                "duration": round(samples.size / SAMPLE_RATE, 4),
                "split": "train",
                "intent": intent,
            }
        )
    return rows


def make_voices(folder: Path, num_voices: int, seed: int) -> int:
    """Write `num_voices` espeak-ng voices and the flite ones with their manifest; returns the number of clips."""
    for program in ("espeak-ng", "flite"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} not found: apt-get install {program}")
    generator = np.random.default_rng(seed)
    words = DIGITS + COMMANDS + OTHER_WORDS
    rows = []
    for number in range(num_voices):
        accent = ACCENTS[number % len(ACCENTS)]
        variant = VARIANTS[int(generator.integers(len(VARIANTS)))]
        pitch, speed = int(generator.integers(20, 80)), int(generator.integers(110, 200))
        rows += write_voice(
            folder,
            f"espeak-{number:03d}",
            lambda word, v=f"{accent}+{variant}", p=pitch, s=speed: speak_espeak(word, v, p, s),
            words,
        )
    scratch = folder / "scratch.wav"
    for voice in FLITE_VOICES:
        for stretch in FLITE_STRETCHES:
            rows += write_voice(
                folder,
                f"flite-{voice}-{int(100 * stretch)}",
                lambda word, v=voice, s=stretch: speak_flite(word, v, s, scratch),
                words,
            )
    scratch.unlink(missing_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/voices"))
    parser.add_argument("--voices", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(make_voices(arguments.output, arguments.voices, arguments.seed), "clips in", arguments.output)


if __name__ == "__main__":
    main()
