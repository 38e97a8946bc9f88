"""Make an archive of short recordings by cutting and joining real speech, with bad files among them if asked.

    python recipes/bulk/make_archive.py --speech data/speech --output ARCHIVE --recordings 20000 --bad 500

Each recording is one to four clips of one corpus, some cut short, with pauses between them: 1 to 15 seconds, as flac
or ogg, at the corpus' own rate. `truth.jsonl` beside the folder of recordings says which are bad, and how.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

CORPORA = ("speechocean762", "speech-commands-excerpt", "fsdd-digits", "librispeech-test-clean")
WEIGHTS = (0.4, 0.25, 0.15, 0.2)
KINDS = ("empty", "text", "truncated", "not a number")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=Path("data/speech"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recordings", type=int, default=20_000, help="good and bad ones together")
    parser.add_argument("--bad", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    clips = {name: list_clips(arguments.speech / name) for name in CORPORA}
    bad = set(random.choice(arguments.recordings, arguments.bad, replace=False).tolist())
    seconds, truth = 0.0, []
    for number in range(arguments.recordings):
        path = arguments.output / "recordings" / f"{number // 1000:03d}" / f"{number:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, rate = join(random, clips[CORPORA[random.choice(len(CORPORA), p=WEIGHTS)]])
        is_bad = number in bad
        file = write(path, samples, rate, ".wav" if is_bad else ".flac" if random.random() < 0.5 else ".ogg")
        kind = damage(file, KINDS[number % len(KINDS)], samples, rate) if is_bad else None
        seconds += 0.0 if is_bad else len(samples) / rate
        truth.append({"recording": str(file.relative_to(arguments.output / "recordings")), "bad": kind})
    lines = "".join(json.dumps(row) + "\n" for row in truth)
    (arguments.output / "truth.jsonl").write_text(lines, encoding="utf-8")
    print(f"{arguments.recordings} recordings, {len(bad)} bad, {seconds / 3600:.2f} h in {arguments.output}")


def list_clips(corpus: Path) -> list[Path]:
    """The recordings of a corpus."""
    lines = (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [corpus / json.loads(line)["audio"] for line in lines]


def join(random: np.random.Generator, clips: list[Path]) -> tuple[np.ndarray, int]:
    """One to four clips, (num_samples,) float32, and their rate; at most 15 seconds."""
    pieces, rate = [], 0
    for index in random.choice(len(clips), random.integers(1, 5)):
        samples, found = soundfile.read(clips[index], dtype="float32")
        if rate in (0, found):
            rate = found
            start = random.integers(0, max(1, len(samples) // 4)) if random.random() < 0.3 else 0
            pieces += [samples[start:], np.zeros(round(random.uniform(0.1, 0.6) * rate), np.float32)]
    return np.concatenate(pieces)[: 15 * rate], rate


def write(path: Path, samples: np.ndarray, rate: int, suffix: str) -> Path:
    """The recording as a file."""
    file = path.with_suffix(suffix)
    soundfile.write(file, samples, rate, subtype="FLOAT" if suffix == ".wav" else None)
    return file


def damage(file: Path, kind: str, samples: np.ndarray, rate: int) -> str:
    """Make a file unusable in one of the `KINDS` of ways."""
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("not found\n")
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        samples[len(samples) // 2] = np.nan
        soundfile.write(file, samples, rate, subtype="FLOAT")
    return kind


if __name__ == "__main__":
    main()
