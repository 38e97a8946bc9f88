"""Exported folders: what they hold, that they run as the model did, and that nothing bad is written or read."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import sewkit
from sewkit.bench import gate
from sewkit.bench.gate import Gate, GateClip, GateRefused, PointGate, export_through_gate
from sewkit.checkpoint import CheckpointError, LoadedModel, convert, load_model
from sewkit.cli.main import app
from sewkit.compute import Compute
from sewkit.errors import MissingExtraError
from sewkit.runtime import Runtime, graph_features
from sewkit.runtime import export as export_module
from sewkit.runtime.export import export, make_runtime, new_folder
from sewkit.runtime.openvino import CONSTANTS
from sewkit.testing import synthetic_speech, toy_model
from sewkit.text import Alphabet

POINTS = [Compute(1, 1, 1), Compute(4, 1, 2)]
"""Their grid has four points."""
CLIPS = [synthetic_speech(size, seed) for seed, size in enumerate((16_000, 24_000, 20_000))]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel(toy_model("stochastic-sew"), Alphabet.english())


def exported(model: LoadedModel, folder: Path, runtime: str, **settings: object) -> Path:
    with new_folder(folder) as draft:
        export(model, draft, runtime, **settings)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def folder(request: pytest.FixtureRequest, model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(model, tmp_path_factory.mktemp("export") / "grid", request.param, points=POINTS)


def test_an_exported_folder_runs_as_the_model_did_at_each_of_its_points(folder: Path, model: LoadedModel) -> None:
    asr = sewkit.load(folder)
    assert asr.loaded.exported is not None
    assert asr.config.squeeze_factors == (1, 4)
    assert asr.config.kv_pools == (1, 2)
    assert len(asr.compute_options) == 4
    for point in asr.compute_options:
        expected = sewkit.Recognizer(model, in_torch(model), "torch").logits(CLIPS, point)
        for one, other in zip(asr.logits(CLIPS, point), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
    with pytest.raises(sewkit.UserError, match="does not run at squeeze=2"):
        asr.logits(CLIPS, "squeeze=2")


def in_torch(model: LoadedModel) -> Runtime:
    return make_runtime(model, "torch", "cpu", "float32")


def test_points_share_one_copy_of_the_weights(folder: Path, model: LoadedModel, tmp_path: Path) -> None:
    runtime = load_model(folder, exported=True).exported.runtime
    single = exported(model, tmp_path / "single", runtime, points=POINTS[:1])
    assert (folder / CONSTANTS).stat().st_size < 1.2 * (single / CONSTANTS).stat().st_size


def test_the_command_line_transcribes_with_an_exported_folder(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", CLIPS[0], 16_000)
    result = CliRunner().invoke(app, ["transcribe", str(tmp_path / "clip.wav"), "--model", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["text"] == sewkit.load(folder).transcribe(CLIPS[0]).text


@pytest.mark.parametrize("name", ["sew", "sew-d"])
@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_int8_is_near_and_exact_whatever_shares_a_call(
    runtime: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_features, "SCALED_FROM", 16)  # else none of a toy's convolutions is in int8
    model = LoadedModel(toy_model(name), Alphabet.english())
    asr = sewkit.load(exported(model, tmp_path / "int8", runtime, int8_clips=CLIPS))
    (one, other), alone = asr.logits(CLIPS[:2]), asr.logits([CLIPS[1]])[0]
    np.testing.assert_array_equal(other, alone)
    (exact,) = in_torch(model).logits(CLIPS[:1])
    assert 1e-4 < np.abs(one - exact).max() < 0.2 * np.abs(exact).max()
    assert asr.loaded.exported.precision == "int8"


def test_quantising_leaves_the_levels_of_other_peoples_handlers(tmp_path: Path) -> None:
    handler = logging.NullHandler()  # as pytest, or a program that writes the logs of its libraries to a file, adds one
    logging.getLogger("nncf").addHandler(handler)
    exported(LoadedModel(toy_model("sew"), Alphabet.english()), tmp_path / "int8", "openvino", int8_clips=CLIPS)
    assert handler.level == logging.NOTSET


def test_an_exported_folder_is_refused_where_weights_are_needed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give the model that it was made from"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="has no weights"):
        sewkit.load(folder).save(tmp_path / "copy")
    with pytest.raises(CheckpointError, match="has no weights"):
        convert(folder, tmp_path / "copy")
    with pytest.raises(sewkit.UserError, match="does not run in torch"):
        sewkit.load(folder, runtime="torch")
    assert not (tmp_path / "copy").exists()


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((folder / "config.json").read_text())
    change(raw["sewkit"]["export"])
    (folder / "config.json").write_text(json.dumps(raw))


def test_damaged_and_hostile_folders_are_refused_in_one_line(copy: Path) -> None:
    graphs = load_model(copy, exported=True).exported.graphs
    victim = copy / graphs["squeeze=1"]
    whole = victim.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"nonsense"):
        victim.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"squeeze1.*again") as raised:
            sewkit.load(copy).logits(CLIPS, "squeeze=1")
        assert "\n" not in str(raised.value)
    victim.unlink()
    with pytest.raises(CheckpointError, match=r"squeeze1.* missing"):
        sewkit.load(copy)
    edit(copy, lambda facts: facts["graphs"].update({"squeeze=1": "../secret"}))
    with pytest.raises(CheckpointError, match="lies outside the folder"):
        sewkit.load(copy)
    edit(copy, lambda facts: facts.pop("format"))  # as before graphs took the number of samples
    with pytest.raises(CheckpointError, match=r"malformed export: .*export the model again"):
        sewkit.load(copy)
    edit(copy, lambda facts: facts.pop("graphs"))
    with pytest.raises(CheckpointError, match="malformed export"):
        sewkit.load(copy)


def test_a_folder_without_its_constants_is_refused_in_one_line(copy: Path) -> None:
    (copy / CONSTANTS).unlink()
    with pytest.raises(CheckpointError, match="again") as raised:
        sewkit.load(copy).logits(CLIPS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("module", "runtime"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_extra_is_one_line_with_the_command(
    module: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'sewkit\[{runtime}\]'"):
        sewkit.load(runtime=runtime).logits(CLIPS)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"runtime": "tensorrt"}, "expected one of auto, torch, openvino, onnx"),
        ({"runtime": "openvino", "device": "cuda"}, "runtime openvino runs on the CPU"),
        ({"runtime": "onnx", "dtype": "bfloat16"}, "runtime onnx computes in float32"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(keywords: dict[str, str], message: str) -> None:
    with pytest.raises(sewkit.UserError, match=message):
        sewkit.load(**keywords)  # type: ignore[arg-type]


def figures(**changes: object) -> PointGate:
    fine = {
        "point": "squeeze=2",
        "difference": 0.1,
        "largest": 10.0,
        "wer_before": 0.100,
        "wer_after": 0.103,
        "changed": 0.01,
        "seconds_before": {"median": 0.1},
        "seconds_after": {"median": 0.05},
        "times_as_fast": 2.0,
    }
    return PointGate(**{**fine, **changes})  # type: ignore[arg-type]


def test_the_gate_names_what_speaks_against_a_model() -> None:
    assert figures().problems(0.003) == []
    assert figures(wer_before=None, wer_after=None).problems(0.003) == []
    assert "slower, 0.90 times as fast" in figures(times_as_fast=0.9).problems(0.003)[0]
    assert "loses 0.40 points of WER, allowed are 0.3" in figures(wer_after=0.104).problems(0.003)[0]
    assert "not finite" in figures(difference=float("nan")).problems(0.003)[0]


def test_the_gate_says_where_there_are_too_few_words_to_tell() -> None:
    def problems(num_words: int, allowed: float = 0.003, **changes: object) -> list[str]:
        point = figures(**changes)
        return Gate(num_clips=9, num_words=num_words, audio_seconds=9.0, points=(point,)).problems(allowed)

    assert "one of the 156 words is 0.64 points: --gate-data with 334 words or more tells" in problems(
        156, wer_after=0.2
    )
    assert problems(156, wer_after=0.2, allowed=0)[-1] == "one of the 156 words is 0.64 points"
    assert len(problems(400, wer_after=0.2)) == 1
    assert problems(156) == []


def test_what_does_not_pass_the_gate_is_not_written_unless_forced(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "ratio", lambda peer, ours: 0.5)
    out, clips = tmp_path / "out", [GateClip(waveform=CLIPS[0], text="HELLO")]
    settings = {"points": POINTS[:1], "runs": 1}
    with pytest.raises(GateRefused, match=r"not written.*slower") as raised:
        export_through_gate(model, out, "onnx", clips, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    passed = export_through_gate(model, out, "onnx", clips, force=True, **settings)  # type: ignore[arg-type]
    assert passed.points[0].difference < 1e-4
    assert passed.points[0].changed == 0
    assert sewkit.load(out).compute_options == (Compute(1, 1, 1),)


def test_the_command_prints_the_gate_and_refuses_bad_requests(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "ratio", lambda peer, ours: 2.0)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", str(toy_folder), str(out), "--runtime", "onnx", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["points"][0]["difference"] < 1e-4
    assert sewkit.load(out).config == sewkit.load(toy_folder).config
    for arguments, message in (
        ([str(out)], "exists and is not an empty folder"),
        ([str(tmp_path / "new"), "--int8"], "name a manifest with --calibrate"),
        ([str(tmp_path / "new"), "--runtime", "tensorrt"], "expected openvino or onnx"),
    ):
        result = CliRunner().invoke(app, ["export", str(toy_folder), *arguments])
        assert isinstance(result.exception, sewkit.UserError)
        assert message in str(result.exception)


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_int8_that_would_overflow_on_a_processor_is_refused_there(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = LoadedModel(toy_model("sew"), Alphabet.english())

    def bits(vnni: bool, **settings: Any) -> int:
        monkeypatch.setattr(export_module, "adds_int8_exactly", lambda: vnni)
        name = f"{vnni}{len(settings)}"
        exported(loaded, tmp_path / name, runtime, int8_clips=CLIPS, **settings)
        return load_model(tmp_path / name, exported=True).exported.weight_bits

    assert (bits(True), bits(True, portable=True), bits(False)) == (8, 7, 7)
    assert sewkit.load(tmp_path / "True1").loaded.exported is not None
    with pytest.raises(sewkit.UserError, match="int8 for processors with VNNI; this one lacks it"):
        sewkit.load(tmp_path / "True0")
