"""Settings of any kind under any key are read or refused in one line, never a traceback: files come from everywhere."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sewkit.checkpoint import CheckpointError, fairseq, huggingface, load_model, save_model
from sewkit.checkpoint.errors import blaming
from sewkit.checkpoint.tokenizer import read_alphabet
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet

VALUES = (None, "x", "", -1, 0, 10**30, 1e300, float("nan"), [], {}, [1], ["x"], [[1]], {"a": 1}, {"1": [1]}, True)


def spoiled(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies of the settings with one value replaced."""
    for key in settings:
        for value in VALUES:
            yield {**settings, key: value}


def refusal(read: Callable[[], object]) -> str:
    """What the error says; "" if the settings were read. Any other exception than ours fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "no vocab.json" and the like
            with blaming("the file"):
                read()
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["w2v2", "sew-d"])
@pytest.mark.parametrize("head", ["SEWForCTC", "SEWForSequenceClassification"])
def test_config_json(name: str, head: str) -> None:
    raw = huggingface.write_config(TOYS[name], Alphabet.english(), None, torch.float32)
    raw |= {"max_relative_positions": -1, "id2label": {}, "num_labels": 3, "architectures": [head]}
    for settings in spoiled(raw):
        assert "\n" not in refusal(lambda settings=settings: huggingface.read_config(settings, set(), "config.json"))
        assert "\n" not in refusal(lambda settings=settings: huggingface.read_labels(settings))


def test_options_of_fairseq() -> None:
    options: dict[str, Any] = {key: values[0] for key, values in fairseq._ACCEPTED.items()}
    options |= {theirs: default for _, theirs, default in fairseq._FIELDS}
    options |= {"_name": "squeeze_wav2vec2_deberta", "extractor_mode": "default", "max_relative_positions": -1}
    options |= {"conv_feature_layers": "[(8, 10, 5)]", "max_position_embeddings": 512, "position_buckets": 256}
    for settings in spoiled(options):
        assert "\n" not in refusal(lambda settings=settings: fairseq.read_config(settings, Path("m.pt")))


def test_tokenizer_files(tmp_path: Path) -> None:
    contents: dict[str, dict[str, Any]] = {
        "vocab.json": {"<pad>": 0, "a": 1, "|": 2},
        "added_tokens.json": {"<s>": 3},
        "special_tokens_map.json": {"pad_token": "<pad>"},
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "do_lower_case": False,
            "word_delimiter_token": "|",
            "replace_word_delimiter_char": " ",
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "added_tokens_decoder": {},
            "additional_special_tokens": [],
        },
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    for name, content in contents.items():
        for settings in spoiled(content):
            (tmp_path / name).write_text(json.dumps(settings))
            assert "\n" not in refusal(lambda: read_alphabet(tmp_path, 4, 0))
        (tmp_path / name).write_text(json.dumps(content))


def test_our_own_section(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy_model("sew"), Alphabet.english())
    raw = json.loads((tmp_path / "m/config.json").read_text())
    for facts in (*spoiled(raw["sewkit"]), *VALUES):
        (tmp_path / "m/config.json").write_text(json.dumps({**raw, "sewkit": facts}))
        assert "\n" not in refusal(lambda: load_model(tmp_path / "m"))
