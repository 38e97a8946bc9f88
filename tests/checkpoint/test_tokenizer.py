"""Vocabulary files -> Alphabet and back: every habit of the fine-tuned models on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sewkit.checkpoint import CheckpointError
from sewkit.checkpoint.tokenizer import read_alphabet, read_normalize, write_alphabet, write_preprocessor
from sewkit.testing import TOYS
from sewkit.text import Alphabet

transformers = pytest.importorskip("transformers")

LETTERS = {"|": 0, "'": 1, "a": 2, "b": 3, "é": 4}


def folder(path: Path, **files: Any) -> Path:
    """vocab={...} is written to vocab.json."""
    names = {"vocab": "vocab.json", "added": "added_tokens.json", "settings": "tokenizer_config.json"}
    names |= {"special": "special_tokens_map.json", "preprocessor": "preprocessor_config.json"}
    names |= {"processor": "processor_config.json"}
    for name, content in files.items():
        (path / names[name]).write_text(json.dumps(content))
    return path


def test_the_published_english_files(tmp_path: Path) -> None:
    vocab = {token: index for index, token in enumerate(Alphabet.english().tokens)}
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {**marks, "do_lower_case": False, "word_delimiter_token": "|", "tokenizer_class": "Wav2Vec2CTCTokenizer"}
    found = read_alphabet(folder(tmp_path, vocab=vocab, settings=settings, special=marks), 32, 0)
    assert found == Alphabet.english()


def test_a_vocabulary_alone_has_the_tokenizer_classes_defaults(tmp_path: Path) -> None:
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5}
    found = read_alphabet(folder(tmp_path, vocab=vocab), 6, 0)
    assert found == Alphabet(("<pad>", "<s>", "</s>", "<unk>", "|", "a"), 0, "|", frozenset((1, 2, 3)))


def test_marks_in_brackets_with_the_blank_at_the_end(tmp_path: Path) -> None:
    """The habit of the XLSR fine-tuning tutorials: letters first, [UNK] and [PAD] last, <s> and </s> added."""
    path = folder(
        tmp_path,
        vocab={**LETTERS, "[UNK]": 5, "[PAD]": 6},
        settings={"unk_token": "[UNK]", "pad_token": "[PAD]", "bos_token": "<s>", "eos_token": "</s>"},
        added={"<s>": 7, "</s>": 8},
    )
    assert read_alphabet(path, 9, 6) == Alphabet(
        ("|", "'", "a", "b", "é", "[UNK]", "[PAD]", "<s>", "</s>"), 6, "|", frozenset((5, 7, 8))
    )
    # The head is often made before the two are added.
    small = read_alphabet(path, 7, 6)
    assert small is not None
    assert small.tokens == ("|", "'", "a", "b", "é", "[UNK]", "[PAD]")
    assert small.special == frozenset((5,))


def test_the_blank_is_the_tokenizers_pad_token_whatever_the_config_says(tmp_path: Path) -> None:
    path = folder(tmp_path, vocab={**LETTERS, "[PAD]": 5}, settings={"pad_token": "[PAD]"})
    found = read_alphabet(path, 6, pad_token_id=0)
    assert found is not None
    assert found.blank == 5


def test_the_config_says_the_blank_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    found = read_alphabet(folder(tmp_path, vocab={"_": 0, **{k: v + 1 for k, v in LETTERS.items()}}), 6, 0)
    assert found is not None
    assert found.blank == 0
    assert found.collapse([3, 0, 3]) == "aa"


@pytest.mark.parametrize("pad_token_id", [None, 9, -1])
def test_no_blank_at_all_is_an_error(tmp_path: Path, pad_token_id: int | None) -> None:
    with pytest.raises(CheckpointError, match="the blank must be one of 5 outputs"):
        read_alphabet(folder(tmp_path, vocab=LETTERS), 5, pad_token_id)


def test_tokens_written_as_objects(tmp_path: Path) -> None:
    path = folder(
        tmp_path,
        vocab={**LETTERS, "[PAD]": 5},
        special={"pad_token": {"content": "[PAD]", "lstrip": False}, "unk_token": {"content": "'"}},
        settings={"added_tokens_decoder": {"6": {"content": "<s>", "special": True}}},
    )
    found = read_alphabet(path, 7, None)
    assert found is not None
    assert (found.blank, found.special, found.tokens[6]) == (5, frozenset((1, 6)), "<s>")


def test_gaps_and_outputs_beyond_the_vocabulary_are_silent(tmp_path: Path) -> None:
    path = folder(tmp_path, vocab={"<pad>": 0, "a": 2, "b": 4, "far": 100})
    found = read_alphabet(path, 6, 0)
    assert found is not None
    assert found.tokens == ("<pad>", "", "a", "", "b", "")
    assert found.collapse([1, 2, 3, 4, 5, 4]) == "abb"


def test_a_space_as_delimiter_and_tokens_of_several_letters(tmp_path: Path) -> None:
    path = folder(tmp_path, vocab={"<pad>": 0, " ": 1, "sch": 2, "a": 3}, settings={"word_delimiter_token": " "})
    found = read_alphabet(path, 4, 0)
    assert found is not None
    assert found.collapse([2, 3, 1, 1, 3]) == "scha a"
    assert found.encode("scha a") == [2, 3, 1, 3]


def test_text_in_lower_case_from_upper_case_tokens(tmp_path: Path) -> None:
    path = folder(tmp_path, vocab={"<pad>": 0, "|": 1, "A": 2, "<unk>": 3}, settings={"do_lower_case": True})
    found = read_alphabet(path, 4, 0)
    assert found is not None
    assert found.tokens == ("<pad>", "|", "a", "<unk>")


@pytest.mark.parametrize(("written", "text"), [(" ", "a a"), ("-", "a-a"), ("", "aa")])
def test_words_are_joined_as_the_tokenizer_joins_them(tmp_path: Path, written: str, text: str) -> None:
    path = folder(tmp_path, vocab={"<pad>": 0, "|": 1, "a": 2}, settings={"replace_word_delimiter_char": written})
    found = read_alphabet(path, 3, 0)
    assert found is not None
    assert found.collapse([2, 1, 2]) == text


def test_no_delimiter_in_the_vocabulary(tmp_path: Path) -> None:
    found = read_alphabet(folder(tmp_path, vocab={"<pad>": 0, "a": 1}), 2, 0)
    assert found is not None
    assert found.delimiter is None


def test_a_vocabulary_for_each_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"MMS.* not supported: such models need adapters"):
        read_alphabet(folder(tmp_path, vocab={"eng": {"a": 0}, "deu": {"a": 0}}), 1, 0)


def test_phonemes_are_refused_but_not_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path, vocab=LETTERS, settings={"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"})
    with pytest.warns(UserWarning, match="phoneme tokenizers are not supported; logits only"):
        assert read_alphabet(path, 5, 0) is None


def test_no_vocabulary_means_english_letters_where_they_fit_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no vocab.json: assuming the 32 English letters"):
        assert read_alphabet(tmp_path, 32, 0) == Alphabet.english()
    with pytest.warns(UserWarning, match=r"no vocab.json: logits only, no text"):
        assert read_alphabet(tmp_path, 40, 0) is None
    with pytest.warns(UserWarning, match="logits only"):
        assert read_alphabet(tmp_path, 32, 31) is None


@pytest.mark.parametrize("content", ["[1, 2]", "{", "", '{"a": "x"}'])
def test_a_damaged_vocabulary_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        read_alphabet(tmp_path, 5, 0)


ALPHABETS = {
    "english": Alphabet.english(),
    "brackets": Alphabet(("|", "a", "b", "[UNK]", "[PAD]"), 4, "|", frozenset((3,))),
    "no marks": Alphabet(("<pad>", "|", "a", "b"), 0, "|"),
    "no delimiter": Alphabet(("a", "b", "<pad>"), 2, None),
    "gaps": Alphabet(("<pad>", "", "a", "", "|"), 0, "|", frozenset((1, 3))),
    "more marks": Alphabet(("<pad>", "<s>", "<breath>", "a", "|"), 0, "|", frozenset((1, 2))),
    "space": Alphabet(("<pad>", " ", "a", "ß"), 0, " "),
}


@pytest.mark.parametrize("name", ALPHABETS)
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    alphabet = ALPHABETS[name]
    write_alphabet(tmp_path, alphabet)
    assert read_alphabet(tmp_path, len(alphabet), alphabet.blank) == alphabet


@pytest.mark.parametrize("name", ALPHABETS)
def test_the_tokenizer_of_transformers_reads_it_and_writes_the_same_text(name: str, tmp_path: Path) -> None:
    alphabet = ALPHABETS[name]
    write_alphabet(tmp_path, alphabet)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.pad_token_id == alphabet.blank
    writable = [index for index in range(len(alphabet)) if index not in alphabet.special]
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.choice(writable, 12).tolist()
        assert " ".join(tokenizer.decode(ids).split()) == alphabet.collapse(ids)


def test_files_that_transformers_saved_again_are_read(tmp_path: Path) -> None:
    """transformers 5 describes all tokens in tokenizer_config.json and adds the marks that were missing."""
    for name, alphabet in ALPHABETS.items():
        (first := tmp_path / name).mkdir()
        write_alphabet(first, alphabet)
        transformers.AutoTokenizer.from_pretrained(first).save_pretrained(tmp_path / f"{name}2")
        found = read_alphabet(tmp_path / f"{name}2", len(alphabet), alphabet.blank)
        assert found is not None
        # In a gap there may be a mark now; it is silent as the gap was.
        assert (found.blank, found.delimiter, found.special) == (alphabet.blank, alphabet.delimiter, alphabet.special)
        assert found.ids == alphabet.ids


def test_one_token_for_two_ids_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="token 'a' has the ids 1 and 2"):
        write_alphabet(tmp_path, Alphabet(("<pad>", "a", "a"), 0, None))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"preprocessor": {"do_normalize": True, "return_attention_mask": False}}, True),
        ({"preprocessor": {"do_normalize": False, "return_attention_mask": True}}, False),
        ({"preprocessor": {"feature_size": 1}}, True),
        ({"processor": {"feature_extractor": {"do_normalize": False}}}, False),
        ({"processor": {"processor_class": "Wav2Vec2Processor"}}, None),
    ],
)
def test_whether_input_is_normalised(tmp_path: Path, files: dict[str, Any], expected: bool | None) -> None:
    assert read_normalize(folder(tmp_path, **files)) is expected


def test_another_sampling_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wants 8000 Hz"):
        read_normalize(folder(tmp_path, preprocessor={"sampling_rate": 8000}))


@pytest.mark.parametrize("name", TOYS)
def test_the_feature_extractor_of_transformers_reads_ours(name: str, tmp_path: Path) -> None:
    write_preprocessor(tmp_path, TOYS[name])
    found = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert found.do_normalize is TOYS[name].normalize_input
    assert found.return_attention_mask is (TOYS[name].extractor_norm == "layer")
    assert read_normalize(tmp_path) is TOYS[name].normalize_input
