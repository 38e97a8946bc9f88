"""Names and the hub, with huggingface_hub's functions replaced: no test leaves this machine."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from sewkit.checkpoint import CheckpointError, hub, load_model, loading, save_model
from sewkit.checkpoint.hub import near_names
from sewkit.testing import toy_model
from sewkit.text import Alphabet


def hub_error(kind: type[Exception], message: str) -> Exception:
    """An error of huggingface_hub, whose constructors want a response of whatever transport that version has."""
    error = kind.__new__(kind)
    error.args = (message,)
    return error


class FakeHub:
    """Serves one folder, as snapshot_download does: what matches the patterns, linked into a folder of the revision."""

    def __init__(self, served: Path, cache: Path):
        self.served, self.cache = served, cache / "snapshots" / "c0ffee"
        self.calls: list[dict] = []

    def snapshot_download(self, repo_id: str, **options) -> str:
        self.calls.append({"repo_id": repo_id, **options})
        self.cache.mkdir(parents=True, exist_ok=True)
        for path in self.served.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in options["allow_patterns"]):
                (self.cache / path.name).write_bytes(path.read_bytes())
        return str(self.cache)

    def names(self) -> set[str]:
        return {path.name for path in self.cache.iterdir()}


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    save_model(tmp_path / "served", toy_model("sew"), Alphabet.english())
    fake = FakeHub(tmp_path / "served", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return fake


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


def test_only_the_files_that_are_read_are_downloaded(fake_hub: FakeHub) -> None:
    for name in ("README.md", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "training_args.bin", "x.wav"):
        (fake_hub.served / name).write_bytes(b"large")
    loaded = load_model("asapp/sew-tiny-100k-ft-ls100h")
    assert loaded.alphabet == Alphabet.english()
    assert {call["repo_id"] for call in fake_hub.calls} == {"asapp/sew-tiny-100k-ft-ls100h"}
    assert fake_hub.names() == {path.name for path in fake_hub.served.iterdir()} - {
        "README.md",
        "tf_model.h5",
        "flax_model.msgpack",
        "pytorch_model.bin",
        "training_args.bin",
        "x.wav",
    }


def test_bin_weights_come_where_there_are_no_others_and_from_the_same_revision(fake_hub: FakeHub) -> None:
    import torch
    from safetensors.torch import load_file

    weights = fake_hub.served / "model.safetensors"
    torch.save(load_file(weights), fake_hub.served / "pytorch_model.bin")
    weights.unlink()
    load_model("asapp/sew-small-100k")
    assert [call.get("revision") for call in fake_hub.calls] == [None, "c0ffee", "c0ffee"]


def test_a_model_that_is_not_supported_is_refused_before_its_weights_are_downloaded(fake_hub: FakeHub) -> None:
    (fake_hub.served / "config.json").write_text('{"model_type": "wav2vec2", "adapter_attn_dim": 16}')
    with pytest.raises(CheckpointError, match="adapter_attn_dim is 16; adapters are not supported"):
        load_model("facebook/mms-1b-all")
    assert "model.safetensors" not in fake_hub.names()


@pytest.mark.parametrize(
    "error",
    [
        hub_error(LocalEntryNotFoundError, "offline and not cached\nsecond line"),
        hub_error(HfHubHTTPError, "503 Server Error"),
        OSError("Network is unreachable"),
        Exception("an error of the transport, whose name depends on the version"),
        TimeoutError(),
    ],
)
def test_an_unreachable_hub_is_one_line_with_a_remedy(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(error, monkeypatch)
    with pytest.raises(
        CheckpointError, match="no such folder, not in the cache, and the hub cannot be reached"
    ) as caught:
        load_model("asapp/sew-tiny-100k")
    assert "give its path, or use the bundled model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_that_the_hub_does_not_know_lists_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(hub_error(RepositoryNotFoundError, "404"), monkeypatch)
    with pytest.raises(CheckpointError, match="no model named 'asapp/sew-tini-100k'; near names: asapp/sew-tiny-100k"):
        load_model("asapp/sew-tini-100k")


def test_a_gated_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(hub_error(GatedRepoError, "403"), monkeypatch)
    with pytest.raises(CheckpointError, match="asks for consent first"):
        load_model("someone/gated")


@pytest.mark.parametrize("name", ["sew-d-tiny", "no_such", "./missing", "missing.pt", "a/b/c", "gone/model.pt", ""])
def test_names_that_cannot_be_ids_do_not_reach_the_hub(name: str, fake_hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"no model named|no config\.json") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
    assert not fake_hub.calls


def test_near_names_are_bundled_and_published_models_and_local_folders(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BUNDLED", fake_hub.served.parent)
    with pytest.raises(CheckpointError, match="near names: served"):
        load_model("serve")
    monkeypatch.setattr(loading, "BUNDLED", Path("nowhere"))
    with pytest.raises(CheckpointError, match="near names: served"):
        load_model("severd")
    with pytest.raises(CheckpointError, match=r"near names: .*asapp/sew-d-tiny-100k"):
        load_model("sew-d-tiny")
    with pytest.raises(CheckpointError, match=r"near names: .*facebook/wav2vec2-base-960h"):
        load_model("wav2vec2-base")
    with pytest.raises(CheckpointError, match=r"give a folder, a \.pt file, or a hub id such as asapp/"):
        load_model("zzzzzz")


def test_the_nearest_name_comes_first() -> None:
    assert near_names("asapp/sew-d-mid-k127-400k-ft", hub.KNOWN_IDS)[0] == "asapp/sew-d-mid-k127-400k"
    assert near_names("sew-d-base-plus-400k-ft-ls100", hub.KNOWN_IDS)[0] == "asapp/sew-d-base-plus-400k-ft-ls100h"


def test_a_folder_of_that_name_wins_over_the_hub(fake_hub: FakeHub) -> None:
    save_model("asapp/sew-tiny-100k", toy_model("sew-d"), Alphabet.english())
    assert load_model("asapp/sew-tiny-100k").model.config.family == "sew-d"
    assert not fake_hub.calls
