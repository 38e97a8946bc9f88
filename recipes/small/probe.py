"""How well a linear classifier tells words apart by an encoder's states, layer by layer: what has been learned.

A clip's states are averaged over each quarter of its time; ridge regression to the words of the training split, rates
on the test split. `random` is the first model's shape with random weights. A minute a model on one core.

    python recipes/small/probe.py data/speech/speech-commands-excerpt/manifest.jsonl random \
        runs/small/heads/encoder-sew-mlp-seed1/model
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sewkit.checkpoint import load_model
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.model import SpeechModel, build_model

QUARTERS, CLIPS_PER_BATCH = 4, 32
PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Tried on a fifth of the training split."""


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", nargs="+", help='folders of models, or "random"')
    options = parser.parse_args()
    rows = {split: read_manifest(options.manifest, split) for split in ("train", "test")}
    words = sorted({row.text for row in rows["train"]})
    wanted = {split: torch.tensor([words.index(row.text) for row in some]) for split, some in rows.items()}
    print(f"{len(words)} words, {len(rows['train'])} clips to learn from, {len(rows['test'])} to test")
    first = next(name for name in options.models if name != "random")
    for name in options.models:
        model = model_called(name, first)
        states = {split: pooled_states(model, some) for split, some in rows.items()}
        layers = zip(states["train"], states["test"], strict=True)
        rates = [probe(train, test, wanted["train"], wanted["test"]) for train, test in layers]
        print(f"{name}: " + "  ".join(f"{rate:.1%}" for rate in rates), flush=True)


def model_called(name: str, first: str) -> SpeechModel:
    """In inference mode, keeping all states."""
    model = load_model(first if name == "random" else name).model
    if name == "random":
        torch.manual_seed(0)
        model = build_model(model.config)
    model.encoder.keep_states = True
    return model.eval()


@torch.inference_mode()
def pooled_states(model: SpeechModel, rows: Sequence[Utterance]) -> list[Tensor]:
    """One (clips, 4 H) for the encoder's input and each layer."""
    batches = []
    for start in range(0, len(rows), CLIPS_PER_BATCH):
        waveforms = [torch.from_numpy(load_utterance(row)) for row in rows[start : start + CLIPS_PER_BATCH]]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        states = model.encode(pad_sequence(waveforms, batch_first=True), lengths).states
        batches.append([quarters(state) for state in states])
    return [torch.cat(layer) for layer in zip(*batches, strict=True)]


def quarters(states: Tensor) -> Tensor:
    """(B, U, H) -> (B, 4 H): means over quarters of the time; clips of a corpus of words are about as long."""
    return torch.cat([quarter.mean(1) for quarter in states.tensor_split(QUARTERS, 1)], 1)


def probe(train: Tensor, test: Tensor, train_words: Tensor, test_words: Tensor) -> float:
    """Accuracy on the test split."""
    mean, deviation = train.mean(0), train.std(0) + 1e-5
    train, test = ((part - mean) / deviation for part in (train, test))
    held_out = torch.arange(len(train)) % 5 == 0

    def rate(penalty: float) -> float:
        weights = ridge(train[~held_out], train_words[~held_out], penalty)
        return accuracy(train[held_out], train_words[held_out], weights)

    return accuracy(test, test_words, ridge(train, train_words, max(PENALTIES, key=rate)))


def ridge(x: Tensor, words: Tensor, penalty: float) -> Tensor:
    """(clips, features), (clips,) -> (features + 1, words), the last row for the constant."""
    x = F.pad(x.double(), (0, 1), value=1.0)
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]).double(), x.T @ F.one_hot(words).double())


def accuracy(x: Tensor, words: Tensor, weights: Tensor) -> float:
    """Share of the clips whose word has the largest score."""
    return float(((F.pad(x.double(), (0, 1), value=1.0) @ weights).argmax(1) == words).double().mean())


if __name__ == "__main__":
    main()
