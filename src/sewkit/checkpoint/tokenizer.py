"""The small files beside a transformers model: its tokens, and whether it wants normalised input.

vocab.json, added_tokens.json, tokenizer_config.json, special_tokens_map.json <-> Alphabet (Wav2Vec2CTCTokenizer);
preprocessor_config.json, or processor_config.json since transformers 5 <-> normalize_input.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sewkit.checkpoint.errors import CheckpointError
from sewkit.config import ModelConfig
from sewkit.text import Alphabet

FILES = (
    "vocab.json",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)

_DEFAULT_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "word_delimiter_token": "|",
}
"""Of Wav2Vec2CTCTokenizer."""
_MARKS = ("bos_token", "eos_token", "unk_token")
_KNOWN_MARKS = {"bos_token": ("<s>", "[BOS]"), "eos_token": ("</s>", "[EOS]"), "unk_token": ("<unk>", "[UNK]")}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _optional_json(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).exists() else {}


# ---- tokens --------------------------------------------------------------------------------------------------------


def read_alphabet(folder: Path, vocab_size: int, pad_token_id: int | None) -> Alphabet | None:
    """The tokens of a CTC head of `vocab_size` outputs.

    Without a vocab.json: the English letters where there are 32 outputs and the blank is 0, as in all published English
    models; otherwise None, and the model gives logits but no text. Both with a warning.
    Raises CheckpointError for a vocabulary nested by language (MMS) and where no blank can be found.
    """
    if not (folder / "vocab.json").exists():
        return assumed_alphabet(f"{folder} has no vocab.json", vocab_size, pad_token_id)
    settings = _optional_json(folder, "tokenizer_config.json")
    if "Phoneme" in str(settings.get("tokenizer_class")):
        warnings.warn(f"{folder}: phoneme tokenizers are not supported; logits only, no text", stacklevel=2)
        return None
    names = _special_names(settings, _optional_json(folder, "special_tokens_map.json"))
    tokens = _tokens_by_id(folder, settings)
    blank = next((index for index, token in tokens.items() if token == names["pad_token"]), pad_token_id)
    if blank is None or not 0 <= blank < vocab_size:
        raise CheckpointError(
            f"{folder}: the blank must be one of {vocab_size} outputs; "
            f"pad token {names['pad_token']!r} has id {blank}; correct tokenizer_config.json or config.json"
        )
    return _alphabet([tokens.get(index, "") for index in range(vocab_size)], blank, names, settings)


def assumed_alphabet(reason: str, vocab_size: int, blank: int | None = 0) -> Alphabet | None:
    """English letters where they fit, None where not; says so either way."""
    if vocab_size == len(Alphabet.english()) and blank == 0:
        warnings.warn(f"{reason}: assuming the 32 English letters of the published models", stacklevel=3)
        return Alphabet.english()
    warnings.warn(f"{reason}: logits only, no text", stacklevel=3)
    return None


def _special_names(settings: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, str | None]:
    """Token of each role. A key that is null says there is none; a missing one means the class default."""
    found = {**_DEFAULT_TOKENS, **special_map, **settings}
    return {role: _content(found[role]) for role in _DEFAULT_TOKENS}


def _content(token: Any) -> str | None:
    """A token is written as a string or as {"content": ...} with details."""
    return token.get("content") if isinstance(token, dict) else token


def _tokens_by_id(folder: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    vocabulary = read_json(folder / "vocab.json")
    if any(isinstance(index, dict) for index in vocabulary.values()):
        raise CheckpointError(
            f"{folder / 'vocab.json'}: one vocabulary a language (MMS) is not supported: such models need adapters"
        )
    tokens: dict[int, str] = {}
    added = _optional_json(folder, "added_tokens.json")
    described = {_content(token): index for index, token in (settings.get("added_tokens_decoder") or {}).items()}
    for source in (vocabulary, added, described):  # where they disagree vocab.json is right, as in transformers
        for token, index in source.items():
            if token is not None:
                tokens.setdefault(_integer(index, folder), token)
    return tokens


def _integer(index: Any, folder: Path) -> int:
    try:
        return int(index)
    except (TypeError, ValueError):
        raise CheckpointError(f"{folder / 'vocab.json'}: token ids must be integers, found {index!r}") from None


def _alphabet(tokens: list[str], blank: int, names: Mapping[str, str | None], settings: Mapping[str, Any]) -> Alphabet:
    marks = {names[role] for role in _MARKS}
    special = {index for index, token in enumerate(tokens) if not token or token in marks}
    special |= {index for index, token in enumerate(tokens) if token in _extra_marks(settings)}
    delimiter, written = names["word_delimiter_token"], settings.get("replace_word_delimiter_char", " ")
    if delimiter not in tokens:
        delimiter = None
    elif written is not None and written.strip():
        # Words are joined with a character of their own: an ordinary letter for us.
        tokens, delimiter = [written if token == delimiter else token for token in tokens], None
    elif not written:
        special.add(tokens.index(delimiter))
        delimiter = None
    if settings.get("do_lower_case"):
        tokens = _lower(tokens, special | {blank})
    return Alphabet(tuple(tokens), blank, delimiter, frozenset(special - {blank}))


def _extra_marks(settings: Mapping[str, Any]) -> set[str | None]:
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    return {_content(token) for token in (extra.values() if isinstance(extra, dict) else extra)}


def _lower(tokens: list[str], silent: set[int]) -> list[str]:
    """The tokenizer's do_lower_case: text comes out in lower case although the tokens are upper case."""
    return [token if index in silent else token.lower() for index, token in enumerate(tokens)]


def write_alphabet(folder: Path, alphabet: Alphabet) -> None:
    """vocab.json, tokenizer_config.json, special_tokens_map.json. Raises CheckpointError if two ids share a token."""
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(alphabet.tokens):
        if token in vocabulary:
            raise CheckpointError(
                f"token {token!r} has the ids {vocabulary[token]} and {index}: vocab.json cannot say so"
            )
        if token:
            vocabulary[token] = index
    marks = {role: _mark(alphabet, names) for role, names in _KNOWN_MARKS.items()}
    # transformers writes the unknown token for ids that have none, so it must be a string.
    marks["unk_token"] = marks["unk_token"] or _DEFAULT_TOKENS["unk_token"]
    special = {**marks, "pad_token": alphabet.tokens[alphabet.blank]}
    extra = [token for i in sorted(alphabet.special) if (token := alphabet.tokens[i]) and token not in special.values()]
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        **special,
        "word_delimiter_token": alphabet.delimiter,
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,
        **({"additional_special_tokens": extra} if extra else {}),
    }
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", {role: token for role, token in special.items() if token})


def _mark(alphabet: Alphabet, names: tuple[str, ...]) -> str | None:
    return next((alphabet.tokens[i] for i in sorted(alphabet.special) if alphabet.tokens[i] in names), None)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- input ---------------------------------------------------------------------------------------------------------


def read_normalize(folder: Path) -> bool | None:
    """Whether waveforms are normalised; None where no file says so.

    Raises CheckpointError for models that do not hear 16 kHz waveforms.
    """
    settings = _optional_json(folder, "preprocessor_config.json")
    settings = settings or _optional_json(folder, "processor_config.json").get("feature_extractor") or {}
    if not settings:
        return None
    if settings.get("sampling_rate", 16000) != 16000:
        raise CheckpointError(
            f"{folder}: the model wants {settings['sampling_rate']} Hz; sewkit's models hear 16000 Hz"
        )
    return bool(settings.get("do_normalize", True))


def write_preprocessor(folder: Path, config: ModelConfig) -> None:
    """preprocessor_config.json, which every version of transformers reads."""
    settings = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "processor_class": "Wav2Vec2Processor",
        "do_normalize": config.normalize_input,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        # Their rule: models with a group norm were trained without a mask and are run without one.
        "return_attention_mask": config.extractor_norm == "layer",
        "sampling_rate": 16000,
    }
    write_json(folder / "preprocessor_config.json", settings)
