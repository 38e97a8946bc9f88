"""Batches of utterances and of crops: functions of (seed, update) that any number of processes shares out."""

import numpy as np
import pytest
import torch
from sounds import messages, noise, write_set

from sewkit.data.augment import Augmentation, Augmenter
from sewkit.data.batch import make_batch, row_seeds
from sewkit.data.buckets import Groups, cut
from sewkit.data.crops import CropBatches
from sewkit.data.manifest import Manifest, ManifestError, read_manifest
from sewkit.data.reading import MAX_FAILURES
from sewkit.data.utterances import UtteranceBatches, cut_descending
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()
PLAIN = Augmenter(Augmentation())
NOISY = Augmenter(Augmentation(string_speed=(0.9, 1.1), noise_probability=1.0, gain_db=(-6, 6)))
DURATIONS = np.random.default_rng(0).uniform(0.2, 2.0, size=40).round(3).tolist()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return Manifest.open(write_set(tmp_path_factory.mktemp("set"), DURATIONS))


def rows_of(batches):
    """seed -> samples of every row."""
    found = {}
    for batch in batches:
        for seed, waveform, length in zip(batch.seeds.tolist(), batch.waveforms, batch.sample_lengths, strict=True):
            assert seed not in found
            found[seed] = waveform[:length].numpy()
    return found


def assert_same_rows(first, second):
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[seed], second[seed]) for seed in first)


@pytest.mark.parametrize("batch_seconds", [40.0, 300.0, 3000.0])
def test_an_epoch_has_every_utterance_once_within_the_seconds_of_an_update(batch_seconds):
    durations = np.random.default_rng(0).uniform(1, 12, size=3000)
    groups = Groups(durations, batch_seconds, seed=1)
    for epoch in (0, 1, 5):
        updates = [groups(epoch * groups.updates_per_epoch + place) for place in range(groups.updates_per_epoch)]
        assert sorted(np.concatenate([row for update in updates for row in update]).tolist()) == list(range(3000))
        padded = [sum(durations[group].max() * group.size for group in update) for update in updates]
        assert max(padded) <= batch_seconds * 1.001
        assert durations.sum() / sum(padded) > 0.9


def test_epochs_differ_in_order_and_in_what_shares_a_group():
    groups = Groups(np.random.default_rng(0).uniform(1, 12, size=500), 60.0, seed=0)
    epochs = [
        [tuple(sorted(g)) for u in range(groups.updates_per_epoch) for g in groups(e * groups.updates_per_epoch + u)]
        for e in range(2)
    ]
    assert set(epochs[0]) != set(epochs[1])


def test_a_large_update_mixes_lengths():
    durations = np.random.default_rng(0).uniform(1, 12, size=5000)
    spread = [
        np.ptp([durations[group].mean() for group in Groups(durations, 2000.0, 0)(update)]) for update in range(5)
    ]
    assert min(spread) > 2.0


def test_one_utterance_longer_than_a_batch_is_a_group_of_its_own():
    groups = Groups(np.array([1.0, 50.0, 1.0]), 10.0, seed=0)
    assert sorted(group.size for update in range(groups.updates_per_epoch) for group in groups(update)) == [1, 2]
    assert np.diff(cut(np.array([1.0, 1.0, 1.0, 4.0, 5.0]), 4.0)).tolist() == [3, 1, 1]


def test_micro_batches_fit_the_device():
    lengths = np.sort(np.random.default_rng(0).uniform(1, 12, size=100))[::-1]
    stretches = cut_descending(lengths, 30.0)
    assert [i for stretch in stretches for i in range(stretch.start, stretch.stop)] == list(range(100))
    assert all(lengths[stretch].max() * len(lengths[stretch]) <= 30.0 for stretch in stretches)


def test_an_empty_set_is_one_line():
    with pytest.raises(ManifestError, match="no utterance to train on"):
        Groups(np.zeros(0), 10.0, 0)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_any_number_of_processes_computes_the_same_utterances_with_the_same_draws(manifest, world):
    def batches(rank, world, device_seconds=4.0):
        return UtteranceBatches(
            manifest, 12.0, NOISY, ALPHABET, 5, device_seconds=device_seconds, rank=rank, world=world
        )

    alone = batches(0, 1)
    for update in (0, 3, alone.updates_per_epoch + 1, 1000):
        shares = [batches(rank, world)(update) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        together = rows_of([batch for share in shares for batch in share])
        assert_same_rows(together, rows_of(alone(update)))
        assert_same_rows(together, rows_of(batches(0, 1, device_seconds=1.0)(update)))


def test_utterances_keep_their_texts_and_classes(tmp_path):
    rows = read_manifest(write_set(tmp_path, [0.2, 0.3, 0.4]))
    classes = np.array([7, 8, 9])
    (batch,) = UtteranceBatches(rows, 10.0, PLAIN, ALPHABET, 0, classes=classes)(0)
    for length, label, text in zip(batch.sample_lengths.tolist(), batch.classes.tolist(), batch.texts, strict=True):
        assert {3200: 7, 4800: 8, 6400: 9}[length] == label
        assert text == "ONE"
    assert batch.label_lengths.tolist() == [3, 3, 3]


def test_every_row_draws_its_own_augmentation(tmp_path):
    path = write_set(tmp_path, [0.5])
    path.write_text(path.read_text() * 4)
    (batch,) = UtteranceBatches(Manifest.open(path), 10.0, NOISY, ALPHABET, 0)(0)
    assert len(set(batch.seeds.tolist())) == 4
    assert len({row.numpy().tobytes() for row in batch.waveforms}) == 4


def test_the_slowest_speed_still_fits_the_device(manifest):
    slow = Augmenter(Augmentation(string_speed=(0.5, 0.5)))
    batches = UtteranceBatches(manifest, 20.0, slow, ALPHABET, 0, device_seconds=8.0)
    for batch in (batch for update in range(batches.updates_per_epoch) for batch in batches(update)):
        assert batch.waveforms.numel() <= 8.0 * 16_000 * 1.01 or len(batch) == 1


def test_a_recording_that_breaks_in_the_middle_of_an_epoch_is_left_out_named_once_and_counted(tmp_path, caplog):
    rows = Manifest.open(write_set(tmp_path, [0.5] * 6))
    whole = UtteranceBatches(rows, 10.0, PLAIN, ALPHABET, 0)(0)
    (tmp_path / "3.flac").write_bytes(b"no longer audio")
    batches = UtteranceBatches(rows, 10.0, PLAIN, ALPHABET, 0)
    (batch,) = batches(0)
    batches(0)
    assert batches.skipped == 1
    (message,) = messages(caplog)
    assert "3.flac" in message
    left = rows_of([batch])
    assert len(left) == 5
    assert all(np.array_equal(samples, rows_of(whole)[seed]) for seed, samples in left.items())
    resumed = UtteranceBatches(rows, 10.0, PLAIN, ALPHABET, 0)
    assert_same_rows(rows_of(resumed(0)), left)


def test_a_batch_of_nothing_readable_has_no_rows_and_many_of_them_end_the_run(tmp_path):
    rows = Manifest.open(write_set(tmp_path, [0.5] * 4))
    for number in range(4):
        (tmp_path / f"{number}.flac").unlink()
    batches = UtteranceBatches(rows, 10.0, PLAIN, ALPHABET, 0)
    (batch,) = batches(0)
    assert len(batch) == batch.seeds.numel() == batch.labels.numel() == 0
    with pytest.raises(ManifestError, match="recordings in a row cannot be read"):
        list(map(batches, range(MAX_FAILURES)))


def test_every_row_of_a_crop_batch_is_cropped_to_one_length_from_its_own_recording(manifest):
    batches = CropBatches(manifest, 12.0, 0, min_seconds=0.5, max_seconds=1.0)
    recordings = {index: noise(DURATIONS[index], seed=index) for index in range(len(DURATIONS))}
    seen = []
    for update in range(batches.updates_per_epoch):
        for batch in batches(update):
            assert set(batch.sample_lengths.tolist()) == {batch.waveforms.shape[1]}
            assert batch.waveforms.shape[1] <= 16_000
            for row in batch.waveforms.numpy():
                (index,) = [i for i, samples in recordings.items() if contains(samples, row)]
                seen.append(index)
    assert sorted(seen) == [index for index, seconds in enumerate(DURATIONS) if seconds >= 0.5]


def contains(samples, piece):
    places = np.flatnonzero(samples[: samples.size - piece.size + 1] == piece[0])
    return any(np.array_equal(samples[place : place + piece.size], piece) for place in places)


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_computes_the_same_crops_and_knows_the_whole_group(manifest, world):
    def batches(rank, world, device_seconds=None):
        return CropBatches(manifest, 12.0, 3, min_seconds=0.5, device_seconds=device_seconds, rank=rank, world=world)

    for update in (0, 2, 500):
        alone = batches(0, 1)(update)
        shares = [batches(rank, world, device_seconds=2.0)(update) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        assert_same_rows(rows_of([batch for share in shares for batch in share]), rows_of(alone))
        groups = {tuple(batch.group_seeds.tolist()) for share in shares for batch in share}
        assert groups == {tuple(batch.group_seeds.tolist()) for batch in alone}
        for batch in (batch for share in shares for batch in share):
            assert torch.equal(batch.group_seeds[batch.group_rows], batch.seeds)
            assert batch.waveforms.numel() <= 2.0 * 16_000 or len(batch) == 1


def test_crops_move_from_epoch_to_epoch(tmp_path):
    batches = CropBatches(Manifest.open(write_set(tmp_path, [3.0])), 4.0, 0, max_seconds=1.0)
    first, second = batches(0)[0], batches(1)[0]
    assert first.waveforms.shape == (1, 16_000)
    assert not torch.equal(first.waveforms, second.waveforms)


def test_without_a_recording_of_the_shortest_length_there_is_nothing_to_crop(manifest):
    with pytest.raises(ManifestError, match=r"none of 40 recordings is 5\.0 s long"):
        CropBatches(manifest, 10.0, 0, min_seconds=5.0)


def test_row_seeds_differ_by_run_update_and_row():
    rows = np.arange(100)
    seeds = np.concatenate([row_seeds(seed, update, rows) for seed in (0, 1) for update in (0, 1)])
    assert np.unique(seeds).size == 400
    assert seeds.dtype == np.int64
    assert (seeds >= 0).all()


def test_a_batch_made_without_seeds_has_zeros_and_moves_whole():
    batch = make_batch([noise(0.1), noise(0.2)], ["ONE", "NO"], ALPHABET).to(torch.device("cpu"))
    assert batch.seeds.tolist() == [0, 0]
    assert batch.texts == ["ONE", "NO"]
