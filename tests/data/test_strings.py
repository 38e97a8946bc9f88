"""Batches of random strings: deterministic, well filled, true to their texts."""

import json

import numpy as np
import pytest
import soundfile
import torch

from sewkit.data.augment import Augmentation, Augmenter
from sewkit.data.manifest import ManifestError, joined_row
from sewkit.data.strings import POOL, Clip, ClipSource, Source, StringBatches, Strings, load_source
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()
WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE")


def clip(level, text, speaker, seconds=0.2):
    return Clip(np.full(int(seconds * 16_000), level, dtype=np.int16), text, speaker)


def source(speaker, level, weight=1.0):
    return ClipSource([clip(level, word, speaker) for word in WORDS * 2], weight)


def string_batches(phases, sources=None, seed=0):
    return StringBatches(sources or [source("a", 1000)], phases, Augmenter(Augmentation()), ALPHABET, seed)


def test_a_batch_is_a_function_of_seed_and_update():
    phases = [Strings(updates=100, num_words=(1, 4), words_per_batch=10)]
    first, second, other = string_batches(phases), string_batches(phases), string_batches(phases, seed=1)
    for update in (7, 2, 7):  # in any order
        assert torch.equal(first(update)[0].waveforms, second(update)[0].waveforms)
        assert first(update)[0].texts == second(update)[0].texts
    assert any(first(update)[0].texts != other(update)[0].texts for update in range(POOL))


def test_the_curriculum_moves_from_words_to_strings_and_its_last_phase_goes_on():
    phases = [Strings(updates=8, num_words=(1, 1)), Strings(updates=8, num_words=(3, 5))]
    batches = string_batches(phases)
    assert {len(text.split()) for update in range(8) for text in batches(update)[0].texts} == {1}
    counts = {len(text.split()) for update in (8, 12, 15, 16, 400) for text in batches(update)[0].texts}
    assert counts <= {3, 4, 5}


def test_spans_mark_the_sound_of_each_word():
    batch = string_batches([Strings(updates=8, num_words=(2, 3), pause=(0.1, 0.3))])(0)[0]
    for waveform, text, spans in zip(batch.waveforms, batch.texts, batch.spans, strict=True):
        assert len(spans) == len(text.split())
        assert sum(end - start for start, end in spans) == int((waveform != 0).sum())
        assert all(bool((waveform[start:end] != 0).all()) for start, end in spans)


def test_examples_without_words_have_empty_texts_and_no_labels():
    batch = string_batches([Strings(updates=8, empty_probability=1.0)])(0)[0]
    assert set(batch.texts) == {""}
    assert int(batch.label_lengths.sum()) == batch.labels.numel() == 0


def test_a_source_is_drawn_by_weight_and_rare_words_more_often_than_their_count():
    sources = [source("a", 1000, weight=3.0), source("b", 2000, weight=1.0)]
    batches = string_batches([Strings(updates=8)], sources)
    generator = np.random.default_rng(0)
    drawn = [batches.draw_source(generator) is sources[0] for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.04)

    uneven = ClipSource([clip(1, "ONE", "a")] * 90 + [clip(1, "TWO", "a")] * 10, 1.0)
    rare = np.mean([uneven.draw(generator).text == "TWO" for _ in range(2000)])
    assert rare == pytest.approx(0.25, abs=0.04)  # sqrt(10) / (sqrt(10) + sqrt(90))


def test_a_string_of_one_speaker_keeps_to_the_speaker():
    mixed = ClipSource([clip(1, word, speaker) for speaker in "abc" for word in WORDS], 1.0)
    phase = Strings(updates=8, one_source_probability=1.0, one_speaker_probability=1.0)
    batches = string_batches([phase], [mixed])
    generator = np.random.default_rng(0)
    for _ in range(20):
        assert len({drawn.speaker for drawn in batches.draw_clips(phase, 4, generator)}) == 1


def write_set(folder, durations):
    rows = []
    for number, seconds in enumerate(durations):
        soundfile.write(folder / f"{number}.wav", np.full(int(seconds * 16_000), 0.1, np.float32), 16_000)
        rows.append(
            {
                "audio": f"{number}.wav",
                "text": "ONE",
                "speaker": "x",
                "duration": seconds,
                "split": "train",
                "intent": "digit" if number % 2 else "word",
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def test_a_source_reads_only_its_intents(tmp_path):
    write_set(tmp_path, [0.1, 0.2, 0.3, 0.4])
    loaded = load_source(Source(manifest="manifest.jsonl", weight=1.0, intents=("digit",)), tmp_path)
    assert [c.samples.size for c in loaded.clips] == [3200, 6400]
    with pytest.raises(ManifestError, match="intent"):
        load_source(Source(manifest="manifest.jsonl", weight=1.0, intents=("colour",)), tmp_path)


def test_a_joined_row_is_one_clip_of_all_its_recordings(tmp_path):
    write_set(tmp_path, [0.1, 0.2])
    parts = [("0.wav", 0.0), ("1.wav", 0.5)]
    row = joined_row(parts, text="ONE ONE", speaker="x", duration=0.8, split="train")
    (tmp_path / "joined.jsonl").write_text(json.dumps(row))
    (clip,) = load_source(Source(manifest="joined.jsonl"), tmp_path).clips
    assert (clip.text, clip.samples.size) == ("ONE ONE", int(0.8 * 16_000))


def test_lanes_are_shared_out_among_processes_and_every_string_has_a_seed_of_its_own():
    phases = [Strings(updates=8, num_words=(1, 3), words_per_batch=6)]
    sources, augmenter = [source("a", 1000)], Augmenter(Augmentation())
    (alone,) = [StringBatches(sources, phases, augmenter, ALPHABET, 3, lanes=4)(5)]
    halves = [StringBatches(sources, phases, augmenter, ALPHABET, 3, lanes=4, rank=r, world=2)(5) for r in range(2)]
    for lane, batch in enumerate(alone):
        shared = halves[lane % 2][lane // 2]
        assert torch.equal(batch.waveforms, shared.waveforms)
        assert torch.equal(batch.seeds, shared.seeds)
    seeds = torch.cat([batch.seeds for batch in alone]).tolist()
    assert len(seeds) == len(set(seeds)) == sum(map(len, alone))
