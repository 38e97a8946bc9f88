"""Stochastic models as folders: a type of their own, and one operating point exported as a plain model.

Against transformers within 1e-4 (float32 sums in another order); everything else exactly.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import sewkit
from sewkit.checkpoint import CheckpointError, convert, load_model, save_model
from sewkit.checkpoint.huggingface import unknown_to_transformers
from sewkit.chunks import ChunkPlan
from sewkit.cli.main import app
from sewkit.compute import Compute, operating_points
from sewkit.config import Stochastic
from sewkit.errors import UserError
from sewkit.model import SpeechModel
from sewkit.model.stochastic import make_stochastic
from sewkit.testing import STOCHASTIC_TOYS, TOYS, padded_batch, synthetic_speech, toy_model
from sewkit.text import Alphabet

ENGLISH = Alphabet.english()
NUM_SAMPLES = (16_320, 9_871, 5_003)
"""50, 30 and 15 frames."""


@pytest.fixture(scope="module", params=STOCHASTIC_TOYS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def saved(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / name
    save_model(folder, toy_model(name), ENGLISH)
    return folder


def clips() -> list[np.ndarray]:
    return [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]


@torch.inference_mode()
def logits(model: SpeechModel, waveform: np.ndarray, compute: Compute | None = None) -> torch.Tensor:
    return model(*padded_batch([waveform]), compute)[0]


def assert_equal_models(one: SpeechModel, other: SpeechModel) -> None:
    assert one.config == other.config
    state = other.state_dict()
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def test_round_trip_is_exact(name: str, saved: Path) -> None:
    loaded = load_model(saved)
    assert_equal_models(toy_model(name), loaded.model)
    assert loaded.alphabet == ENGLISH


def test_round_trip_of_pools_layer_by_layer_and_of_a_unit_of_positions_is_exact(tmp_path: Path) -> None:
    config = TOYS["sew-d"].replace(squeeze_factors=(2, 4), kv_pools=(1, (1, 2)), position_unit=2)
    model = toy_model(config)
    save_model(tmp_path / "m", model, ENGLISH)
    assert_equal_models(model, load_model(tmp_path / "m").model)
    assert Compute(4, 1, (1, 2)) in operating_points(load_model(tmp_path / "m").model.config)


def test_the_folder_has_a_type_and_a_format_version_of_its_own(saved: Path) -> None:
    raw = json.loads((saved / "config.json").read_text())
    assert raw["model_type"] == "sewkit"
    assert raw["sewkit"]["config"]["squeeze_factors"] == [1, 2, 3, 4]
    raw["sewkit"]["format_version"] += 1
    newer = saved.with_name("newer")
    newer.mkdir(exist_ok=True)
    (newer / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"format version \d+, this sewkit reads up to \d+; upgrade sewkit"):
        load_model(newer)


def test_a_folder_of_a_fixed_model_from_before_there_were_sets_is_read(tmp_path: Path) -> None:
    model = toy_model(TOYS["sew"].replace(norm_first=True))
    save_model(tmp_path / "m", model, ENGLISH)
    raw = json.loads((tmp_path / "m/config.json").read_text())
    config = raw["sewkit"]["config"]
    config["squeeze_factor"] = config.pop("squeeze_factors")[0]
    for field in ("query_pools", "kv_pools", "position_unit"):
        del config[field]
    (tmp_path / "m/config.json").write_text(json.dumps(raw))
    assert_equal_models(model, load_model(tmp_path / "m").model)


def test_transformers_refuses_it_by_name_instead_of_computing_something_else(saved: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="sewkit"):
        transformers.AutoModelForCTC.from_pretrained(saved)


@pytest.mark.parametrize("squeeze", [1, 2, 3, 4])
def test_an_exported_factor_is_the_stochastic_model_at_that_factor_in_transformers_too(
    name: str, saved: Path, squeeze: int, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model, point = toy_model(name), Compute(squeeze)
    exported = convert(saved, tmp_path / "m", compute=f"squeeze={squeeze}").model
    assert unknown_to_transformers(exported.config) is None
    loaded = load_model(tmp_path / "m")
    assert loaded.alphabet == ENGLISH
    theirs, info = transformers.AutoModelForCTC.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values()), info
    for waveform in clips():
        expected = logits(model, waveform, point)
        assert torch.equal(logits(exported, waveform), expected)
        assert torch.equal(logits(loaded.model, waveform), expected)
        with torch.inference_mode():
            found = theirs.eval()(padded_batch([waveform])[0]).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("point", [Compute(2, 2, 2), Compute(1, 1, 2), Compute(3, (1, 2), 1)], ids=str)
def test_an_exported_point_with_pooling_is_that_point(name: str, saved: Path, point: Compute, tmp_path: Path) -> None:
    convert(saved, tmp_path / "m", compute=point)
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "sewkit"
    loaded = load_model(tmp_path / "m").model
    assert operating_points(loaded.config) == (point,)
    for waveform in clips():
        assert torch.equal(logits(loaded, waveform), logits(toy_model(name), waveform, point))


def test_positions_in_a_unit_of_time_export_as_a_plain_sew_d_where_the_unit_is_the_squeezed_frame(
    tmp_path: Path,
) -> None:
    save_model(tmp_path / "m", make_stochastic(toy_model("sew-d"), Stochastic(position_unit=2)), ENGLISH)
    types = []
    for squeeze in (2, 4):
        convert(tmp_path / "m", tmp_path / f"m{squeeze}", compute=Compute(squeeze))
        types.append(json.loads((tmp_path / f"m{squeeze}/config.json").read_text())["model_type"])
    assert types == ["sew-d", "sewkit"]
    assert_equal_models(toy_model("sew-d"), load_model(tmp_path / "m2").model)


# ---- in use ------------------------------------------------------------------------------------------------------


def test_the_recogniser_runs_at_the_point_asked_for_by_value_or_as_text(saved: Path) -> None:
    asr, model = sewkit.load(saved), load_model(saved).model
    assert len(asr.compute_options) == 16
    waveform = synthetic_speech(32_000)
    for point in (asr.compute_options[0], Compute(3, 2, 1)):
        by_value, by_text = (asr.logits([waveform], compute=way)[0] for way in (point, str(point)))
        np.testing.assert_array_equal(by_value, by_text)
        # 1e-5: the runtime prepares the model for inference, which sums in another order
        np.testing.assert_allclose(by_value, logits(model, waveform, point)[0].numpy(), atol=1e-5)
        assert asr.transcribe(waveform, compute=str(point)).compute == point
    assert asr.transcribe(waveform).compute == Compute(1)
    with pytest.raises(UserError, match=r"does not run at squeeze=6; it runs at: squeeze 1, 2, 3, 4; query_pool 1, 2"):
        asr.transcribe(waveform, compute="squeeze=6")


def test_long_recordings_at_any_point_have_the_frames_of_the_whole(tmp_path: Path) -> None:
    """75 s, stitched from chunks that start on whole windows; margins as in use."""
    save_model(tmp_path / "m", toy_model("stochastic-sew"), ENGLISH)
    asr = sewkit.load(tmp_path / "m")
    point = Compute(4, 2, 2)
    plan = ChunkPlan.for_model(asr.config)
    starts = [0, plan.chunk - 2 * plan.margin]
    assert all(start % (320 * point.squeeze * 2) == 0 for start in (*starts, plan.margin))


def run_cli(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_the_command_line_exports_one_point_and_says_what_there_is(saved: Path, tmp_path: Path) -> None:
    done = run_cli("convert", str(saved), str(tmp_path / "m"), "--compute", "squeeze=3", "--json")
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "m").model.config.squeeze_factors == (3,)
    info = run_cli("info", str(saved), "--json")
    facts = json.loads(info.output)
    assert facts["operating_points"][0] == "squeeze=4,query_pool=2,kv_pool=2"
    assert facts["macs_per_second_by_point"]["squeeze=1"] == facts["macs_per_second"]
    assert "squeeze=1" in run_cli("info", str(saved)).output


def test_the_command_line_transcribes_at_the_point_asked_for(saved: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", synthetic_speech(16_000), 16_000)
    arguments = ("transcribe", str(tmp_path / "clip.wav"), "--model", str(saved), "--json")
    done = run_cli(*arguments, "--compute", "squeeze=4,kv_pool=2")
    assert json.loads(done.stdout)["compute"] == {"squeeze": 4, "query_pool": 1, "kv_pool": 2}
    refused = run_cli(*arguments, "--compute", "squeeze=9")
    assert "does not run at squeeze=9" in str(refused.exception)


@pytest.mark.parametrize(
    ("source", "point", "message"),
    [
        ("stochastic-sew", "squeeze=6", "does not run at squeeze=6; it runs at: squeeze 1, 2, 3, 4"),
        ("stochastic-sew", "fastest", "operating point 'fastest': expected full, balanced, fast"),
        ("sew", "squeeze=4", "does not run at squeeze=4; it runs at: squeeze=2 only"),
    ],
)
def test_a_point_that_cannot_be_exported_is_one_clear_error_and_writes_nothing(
    source: str, point: str, message: str, tmp_path: Path
) -> None:
    save_model(tmp_path / "m", toy_model(source), ENGLISH)
    with pytest.raises(UserError, match=re.escape(message)):
        convert(tmp_path / "m", tmp_path / "out", compute=point)
    assert not (tmp_path / "out").exists()
