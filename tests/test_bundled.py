"""The model that comes with the package, on real recordings of speakers it never heard."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from jiwer import process_words

import sewkit
from sewkit.audio import SAMPLE_RATE, load_audio
from sewkit.chunks import ChunkPlan, split
from sewkit.compute import macs
from sewkit.data.manifest import load_utterance, read_manifest

ROOT = Path(__file__).parent.parent
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


@pytest.fixture(scope="module")
def asr() -> sewkit.Recognizer:
    return sewkit.load()


@pytest.fixture(scope="module")
def clips() -> list[tuple[str, np.ndarray]]:
    """(digit, its sound), isolated recordings in a fixed random order."""
    rows = [row for row in read_manifest(ROOT / "tests" / "clips" / "manifest.jsonl") if row.text in DIGITS]
    order = np.random.default_rng(3).permutation(len(rows))
    return [(rows[index].text, load_utterance(rows[index])) for index in order]


def errors(reference: list[str], found: list[str]) -> int:
    if not reference:
        return len(found)
    counts = process_words(" ".join(reference), " ".join(found))
    return counts.substitutions + counts.deletions + counts.insertions


@pytest.mark.parametrize("name", ["digits", "commands"])
def test_it_reads_the_examples(asr: sewkit.Recognizer, name: str) -> None:
    transcript = asr.transcribe(ROOT / "examples" / f"{name}.flac")
    assert transcript.text == (ROOT / "examples" / f"{name}.txt").read_text().strip()
    assert all(word.confidence > 0.5 for word in transcript.words)


def test_the_language_model_of_its_words_takes_errors_away(
    asr: sewkit.Recognizer, clips: list[tuple[str, np.ndarray]]
) -> None:
    pause = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)
    spoken = [word for word, _ in clips]
    recording = np.concatenate([part for _, samples in clips for part in (samples, pause)])
    search = asr.beam_search(ROOT / "examples" / "words.arpa")
    greedy, searched = (asr.transcribe(recording, decoder=decoder).text.split() for decoder in (None, search))
    assert errors(spoken, searched) < errors(spoken, greedy)


def test_it_writes_nothing_where_nobody_speaks(asr: sewkit.Recognizer) -> None:
    generator = np.random.default_rng(0)
    assert asr.transcribe(np.zeros(5 * SAMPLE_RATE, np.float32)).text == ""
    assert asr.transcribe(generator.standard_normal(5 * SAMPLE_RATE).astype(np.float32) * 0.02).text == ""


def test_words_are_where_they_were_spoken(asr: sewkit.Recognizer, clips: list[tuple[str, np.ndarray]]) -> None:
    """Each recording of a second has its word near the loudest part; the word must lie inside the recording."""
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    start, spans, pieces = 0.0, [], []
    for word, samples in clips[:8]:
        pieces += [samples, pause]
        spans.append((word, start, start + len(samples) / SAMPLE_RATE))
        start += (len(samples) + len(pause)) / SAMPLE_RATE
    words = asr.transcribe(np.concatenate(pieces)).words
    heard = [
        (word, begin, end)
        for text, begin, end in spans
        for word in words
        if word.text == text and word.end > begin and word.start < end
    ]
    assert len(heard) >= 4  # the words it got right; what is claimed here is where they lie
    assert all(begin - 0.1 <= word.start and word.end <= end + 0.1 for word, begin, end in heard)


def test_a_long_recording_has_no_error_at_a_seam_that_its_pieces_do_not_have(
    asr: sewkit.Recognizer, clips: list[tuple[str, np.ndarray]]
) -> None:
    pause = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)
    spoken = clips * 6
    starts = np.cumsum([0, *(len(samples) + len(pause) for _, samples in spoken)])
    recording = np.concatenate([part for _, samples in spoken for part in (samples, pause)])
    stitched = asr.transcribe(recording).words

    plan = ChunkPlan.for_model(asr.config)
    pieces = [(number * (plan.chunk - 2 * plan.margin), chunk) for number, chunk in enumerate(split([recording], plan))]
    assert len(pieces) >= 5
    for (offset, before), (next_offset, after) in itertools.pairwise(pieces):
        assert before.keep_to is not None
        seam = offset + before.keep_to * plan.hop
        nearest = int(np.searchsorted(starts, seam)) - 1
        begin, end = starts[nearest - 1], starts[nearest + 2]  # the recordings around the seam, both chunks hear them
        reference = [word for word, _ in spoken[nearest - 1 : nearest + 2]]
        heard = [
            words_between(asr.transcribe(piece.samples).words, begin - start, end - start)
            for start, piece in ((offset, before), (next_offset, after))
        ]
        around = words_between(stitched, begin, end)
        assert errors(reference, around) <= max(errors(reference, words) for words in heard), (reference, around, heard)


def words_between(words: list[sewkit.Word], begin: float, end: float) -> list[str]:
    """Words whose middle lies between two samples."""
    return [word.text for word in words if begin <= (word.start + word.end) / 2 * SAMPLE_RATE < end]


def test_it_is_a_small_sew_whose_encoder_does_most_of_the_work(asr: sewkit.Recognizer) -> None:
    folder = ROOT / "src" / "sewkit" / "models" / "sew-words"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    assert (asr.config.family, asr.config.squeeze_factors) == ("sew", (1, 2, 3, 4))
    costs = macs(asr.config, 10 * SAMPLE_RATE, sewkit.Compute(1))
    encoder = sum(cost for stage, cost in costs.items() if stage.startswith("encoder"))
    assert encoder >= 0.8 * sum(costs.values())


def test_the_doctors_clip_is_sound() -> None:
    from importlib.resources import files

    from sewkit.doctor import CLIP

    assert len(load_audio(str(files("sewkit") / "clips" / CLIP))) == pytest.approx(7.1 * SAMPLE_RATE, abs=SAMPLE_RATE)
