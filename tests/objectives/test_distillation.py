"""A teacher's letters: what the divergence counts, and what it leaves alone."""

from dataclasses import replace

import pytest
import torch

from sewkit.compute import Compute
from sewkit.config import Masking
from sewkit.data.batch import make_batch
from sewkit.errors import UserError
from sewkit.model.stochastic import make_stochastic
from sewkit.objectives.ctc import CTC
from sewkit.objectives.distillation import Teacher
from sewkit.testing import TOYS, synthetic_speech, toy_model
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()
OWN, OTHER = Compute(squeeze=2), Compute(squeeze=3)


@pytest.fixture
def teacher():
    return Teacher(toy_model("sew"))


@pytest.fixture
def student(teacher):
    return make_stochastic(teacher.model)


def batch_of(*sizes, point=OWN, texts=None):
    sounds = [synthetic_speech(size, seed=size) for size in sizes]
    return replace(make_batch(sounds, texts or ["YES"] * len(sizes), ALPHABET), compute=point)


def taught(student, teacher, weight=1.0, **settings):
    return CTC(student, teacher=teacher, teacher_weight=weight, **settings)


@torch.no_grad()
def test_a_student_begun_from_its_teacher_has_nothing_to_learn_at_the_teachers_point(teacher, student):
    objective = taught(student, teacher)
    assert objective(batch_of(16_000, 12_345)).total.item() == pytest.approx(0, abs=1e-4)
    assert objective(batch_of(16_000, 12_345, point=OTHER)).total.item() > 0.1


@torch.no_grad()
def test_the_divergence_is_summed_over_the_frames_that_both_have_heard(teacher, student):
    batch = batch_of(12_000, point=OTHER)  # 37 frames; 36 are heard at squeeze 2, 36 at squeeze 3
    mine, _ = student(batch.waveforms, batch.sample_lengths, OTHER)
    its, lengths = teacher.model(batch.waveforms, batch.sample_lengths)
    assert lengths.tolist() == [37]
    mine, its = mine.log_softmax(-1)[0, :36], its.log_softmax(-1)[0, :36]
    by_hand = (its.exp() * (its - mine)).sum()
    assert taught(student, teacher)(batch).total.item() == pytest.approx(by_hand.item(), rel=1e-4)


@torch.no_grad()
def test_who_shares_the_batch_does_not_matter(teacher, student):
    objective = taught(student, teacher)
    together = objective(batch_of(16_000, 9_000, point=OTHER)).total.item()
    alone = sum(objective(batch_of(size, point=OTHER)).total.item() for size in (16_000, 9_000))
    assert together == pytest.approx(alone, rel=1e-4)


@torch.no_grad()
def test_the_loss_is_shared_between_transcript_and_teacher(teacher, student):
    batch = batch_of(16_000, point=OTHER)
    plain = CTC(student, intermediate_weight=0.3)(batch).total.item()
    distance = taught(student, teacher)(batch).total.item()
    mixed = taught(student, teacher, 0.25, intermediate_weight=0.3)(batch)
    assert mixed.total.item() == pytest.approx(0.75 * plain + 0.25 * distance, rel=1e-5)
    assert mixed.metrics["divergence"].item() == pytest.approx(distance / len("YES"), rel=1e-5)


@torch.no_grad()
def test_the_student_is_masked_and_the_teacher_is_not(teacher, student):
    masking = Masking(time_prob=0.5, time_length=4, channel_prob=0.0, channel_length=4)
    assert taught(student, teacher, masking=masking)(batch_of(16_000)).total.item() > 0.1


def test_only_the_student_learns_and_only_the_student_is_saved(teacher, student):
    objective = taught(student, teacher)
    objective.train()
    objective(batch_of(16_000, point=OTHER)).total.backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert not teacher.model.training
    assert all(name.startswith("model.") for name in objective.state_dict())


def test_an_empty_share_of_an_update_has_a_loss_of_zero(teacher, student):
    loss = taught(student, teacher)(replace(make_batch([], [], ALPHABET), compute=OTHER))
    loss.total.backward()
    assert (loss.total.item(), loss.count) == (0.0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 40}, "teacher: it has 32 letters; expected 40"),
        ({"conv_layers": TOYS["sew"].conv_layers[:-2]}, "teacher: it has 320 samples a frame; expected 160"),
    ],
)
def test_a_teacher_of_other_letters_or_frames_is_refused(teacher, changes, message):
    with pytest.raises(UserError, match=message):
        teacher.check(toy_model(TOYS["sew"].replace(**changes)))
