"""Models from the Hugging Face hub: only the files that are read, kept in huggingface_hub's cache."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from sewkit.checkpoint import tokenizer
from sewkit.checkpoint.errors import CheckpointError, one_line
from sewkit.curve import FILE_NAME as CURVE_FILE

KNOWN_IDS = (
    "asapp/sew-tiny-100k",
    "asapp/sew-small-100k",
    "asapp/sew-mid-100k",
    "asapp/sew-d-tiny-100k",
    "asapp/sew-d-small-100k",
    "asapp/sew-d-mid-100k",
    "asapp/sew-d-mid-k127-100k",
    "asapp/sew-d-base-100k",
    "asapp/sew-d-base-plus-100k",
    "asapp/sew-d-mid-400k",
    "asapp/sew-d-mid-k127-400k",
    "asapp/sew-d-base-plus-400k",
    "asapp/sew-tiny-100k-ft-ls100h",
    "asapp/sew-d-tiny-100k-ft-ls100h",
    "asapp/sew-d-mid-400k-ft-ls100h",
    "asapp/sew-d-mid-k127-400k-ft-ls100h",
    "asapp/sew-d-base-plus-400k-ft-ls100h",
    "facebook/wav2vec2-base-960h",
    "facebook/wav2vec2-large-960h",
    "facebook/wav2vec2-large-960h-lv60-self",
)
"""Published models to suggest where a name is unknown; any other id is tried as well."""

_SMALL_FILES = ["config.json", *tokenizer.FILES, CURVE_FILE]
_LANGUAGE_MODEL = ["alphabet.json", "language_model/*"]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
_TORCH = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]


def looks_like_id(name: str) -> bool:
    """Whether a name has the form owner/model."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith((".", "~"))


def download(model_id: str, accept: Callable[[Path], None]) -> Path:
    """The folder of a hub model in the local cache, downloaded if need be.

    `accept` sees the folder before the weights are fetched, and may raise CheckpointError.
    Raises CheckpointError, on one line, for an unknown id and for a hub that cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        folder = Path(huggingface_hub.snapshot_download(model_id, allow_patterns=_SMALL_FILES))
        accept(folder)
        revision = folder.name  # the model may be updated between the calls
        huggingface_hub.snapshot_download(model_id, revision=revision, allow_patterns=[*_SAFETENSORS, *_LANGUAGE_MODEL])
        if not list(folder.glob("*.safetensors")):
            huggingface_hub.snapshot_download(model_id, revision=revision, allow_patterns=_TORCH)
    except CheckpointError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"{model_id}: its owner asks for consent first; accept on the hub, log in, try again"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise unknown_name(model_id) from error
    # Whatever else the client meets, also the errors of its transport, which changes with its versions.
    except Exception as error:
        reason = one_line(error.__cause__ or error, 80)
        raise CheckpointError(
            f"{model_id}: no such folder, not in the cache, and the hub cannot be reached ({reason}); "
            "copy the model's folder here and give its path, or use the bundled model, which needs no network"
        ) from error
    return folder


def unknown_name(name: str, others: tuple[str, ...] = ()) -> CheckpointError:
    """The error for a name that is no model: it lists the nearest names there are, `others` among them."""
    near = near_names(name, (*others, *KNOWN_IDS, *_local_folders()))
    hint = (
        f"near names: {', '.join(near)}" if near else "give a folder, a .pt file, or a hub id such as " + KNOWN_IDS[12]
    )
    return CheckpointError(f"no model named {name!r}; {hint}")


def near_names(name: str, names: tuple[str, ...], limit: int = 5) -> list[str]:
    """Those of `names` that resemble `name`, with or without their owner, nearest first."""
    wanted = _last_part(name)

    def likeness(candidate: str) -> float:
        part = _last_part(candidate)
        contained = 0.5 * (min(len(wanted), len(part)) > 3 and (wanted in part or part in wanted))
        return difflib.SequenceMatcher(None, wanted, part).ratio() + contained

    ranked = sorted(dict.fromkeys(names), key=likeness, reverse=True)
    return [candidate for candidate in ranked[:limit] if likeness(candidate) >= 0.6]


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _local_folders() -> tuple[str, ...]:
    try:
        return tuple(sorted(str(path.parent) for path in Path().glob("*/config.json")))
    except OSError:
        return ()
