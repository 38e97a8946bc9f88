"""Toy recipes that several tests share."""

import json

import yaml

from sewkit.config import compact_conv_layers

MODEL = {
    "family": "sew",
    "conv_layers": [list(layer) for layer in compact_conv_layers(4)],
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_size": 32,
    "squeeze_factor": 2,
    "pos_conv_kernel": 7,
    "dropout": {"layerdrop": 0.1},
}
SCHEDULE = {"learning_rate": 1e-3}
STAGES = [
    {
        "name": "log-mel",
        "objective": "log_mel",
        "schedule": SCHEDULE,
        "strings": [{"updates": 3, "words_per_batch": 4}],
    },
    {
        "name": "flat-start",
        "objective": "flat_start",
        "schedule": SCHEDULE,
        "strings": [{"updates": 3, "num_words": [1, 2], "words_per_batch": 4}],
        "augmentation": {"speed": [0.9, 1.1], "noise_probability": 0.5},
    },
    {
        "name": "ctc",
        "objective": "ctc",
        "schedule": SCHEDULE,
        "strings": [{"updates": 4, "num_words": [1, 3], "words_per_batch": 6, "empty_probability": 0.1}],
        "intermediate_weight": 0.3,
        "masking": {"time_prob": 0.2, "time_length": 3, "channel_prob": 0.1, "channel_length": 4},
    },
]


def write_rows(folder, rows):
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(folder, **changes):
    values = {
        "data_root": str(folder),
        "model": MODEL,
        "train": [{"manifest": "manifest.jsonl", "weight": 1.0}],
        "dev": [{"name": "tones", "manifest": "manifest.jsonl"}],
        "stages": STAGES,
        "log_every": 2,
        "validate_every": 2,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    return path
