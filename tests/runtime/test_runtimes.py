"""Every runtime keeps the same promises: what PyTorch gives, alone or beside others, for every head and point.

Tolerance 1e-4 in float32, as between any two batches; int8 runs each clip by itself, so there it is exact.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import sewkit
from sewkit.checkpoint import LoadedModel
from sewkit.compute import Compute, resolve
from sewkit.config import PUBLISHED, ModelConfig
from sewkit.lengths import num_frames
from sewkit.model import SpeechModel, build_model
from sewkit.runtime import Runtime, graph_features
from sewkit.runtime.export import export, make_runtime, new_folder
from sewkit.runtime.graph import ZEROS, ClipGraph, graph_inputs
from sewkit.runtime.openvino import SIZE_UNIT, padded_size
from sewkit.testing import STOCHASTIC_TOYS, TOYS, synthetic_speech, toy_model
from sewkit.text import Alphabet

TOLERANCE = 1e-4
NUM_SAMPLES = (32_000, 9_871, 5_003, 1_360, 720, 640, 400, 399, 0)
RUNTIMES = ("torch", "openvino", "onnx")

Make = Callable[[SpeechModel], Runtime]


@pytest.fixture(params=RUNTIMES)
def make(request: pytest.FixtureRequest) -> Make:
    def run(model: SpeechModel) -> Runtime:
        return make_runtime(LoadedModel(model), request.param, "cpu", "float32")

    return run


def clips() -> list[np.ndarray]:
    return [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]


def reference(
    model: SpeechModel, waveform: np.ndarray, compute: Compute | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Head output and frames of the model's own forward."""
    batch, lengths = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
    with torch.inference_mode():
        output, frames = model(batch, lengths, compute)
        encoded = model.encode(batch, lengths, compute).frames
    output = output[0, : int(frames)] if output.dim() == 3 else output[0]
    return output.numpy(), encoded[0, : int(frames)].numpy()


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["w2v2-prenorm", "sew", "sew-d-s3"])
def test_logits_and_frames_are_those_of_the_model_whatever_shares_the_call(name: str, make: Make) -> None:
    model = toy_model(name)
    runtime = make(model)
    for waveform, logits, frames in zip(clips(), runtime.logits(clips()), runtime.encode(clips()), strict=True):
        expected_logits, expected_frames = reference(model, waveform)
        assert len(logits) == num_frames(len(waveform), model.config.conv_layers)
        assert_near(logits, expected_logits)
        assert_near(frames, expected_frames)
        assert_near(runtime.logits([waveform])[0], logits)


POINTS = {
    "stochastic-sew": ("squeeze=1,query_pool=2", "squeeze=4,kv_pool=2", "squeeze=3,query_pool=1/2,kv_pool=2/1"),
    "stochastic-sew-d": ("squeeze=1,query_pool=2,kv_pool=2", "squeeze=3,kv_pool=2"),
    "stochastic-w2v2": ("squeeze=1", "squeeze=2,query_pool=2,kv_pool=2"),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_stochastic_model_runs_at_each_point_that_is_asked_for(name: str, make: Make) -> None:
    model = toy_model(name)
    runtime = make(model)
    for point in map(Compute.parse, POINTS[name]):
        for waveform, logits in zip(clips(), runtime.logits(clips(), point), strict=True):
            assert_near(logits, reference(model, waveform, point)[0])


def test_positions_in_a_unit_of_time_are_those_of_the_model(make: Make) -> None:
    model = toy_model(STOCHASTIC_TOYS["stochastic-sew-d"].replace(position_unit=3))
    runtime, waveform = make(model), synthetic_speech(40_000)
    point = Compute(2, 2, 1)
    assert_near(runtime.logits([waveform], point)[0], reference(model, waveform, point)[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_class_scores_are_those_of_the_model_also_of_clips_too_short_to_hear(weighted: bool, make: Make) -> None:
    model = toy_model(TOYS["sew"].replace(vocab_size=None, num_labels=5, weighted_layer_sum=weighted))
    runtime = make(model)
    for waveform, scores in zip(clips(), runtime.class_scores(clips()), strict=True):
        assert_near(scores, reference(model, waveform)[0])


def test_a_bare_encoder_runs_everywhere(make: Make) -> None:
    model = toy_model(TOYS["sew-s1"].replace(vocab_size=None))
    waveform = synthetic_speech(9_000)
    with torch.inference_mode():
        expected = model.encode(torch.from_numpy(waveform)[None], torch.tensor([9_000])).frames[0].numpy()
    assert_near(make(model).encode([waveform])[0], expected)


def two_layers(name: str) -> ModelConfig:
    return PUBLISHED[name].replace(num_layers=2, vocab_size=32)


@pytest.mark.parametrize("name", ["sew-tiny", "sew-d-tiny", "w2v2-base"])
def test_published_sizes_give_the_logits_of_the_model(name: str, make: Make) -> None:
    torch.manual_seed(0)
    model = build_model(two_layers(name)).eval()
    runtime = make(model)
    waveforms = [synthetic_speech(size, seed) for seed, size in enumerate((24_000, 10_050))]
    for waveform, logits in zip(waveforms, runtime.logits(waveforms), strict=True):
        assert_near(logits, reference(model, waveform)[0])


def test_the_bundled_model_transcribes_alike_in_every_runtime() -> None:
    path = Path(__file__).parents[2] / "examples" / "digits.flac"
    texts = {runtime: sewkit.load(runtime=runtime).transcribe(path, compute="fast").text for runtime in RUNTIMES}
    assert len(set(texts.values())) == 1
    assert texts["torch"]


def test_calls_side_by_side_give_what_they_give_alone(make: Make) -> None:
    from concurrent.futures import ThreadPoolExecutor

    runtime, waveforms = make(toy_model("sew")), clips()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda waveform: runtime.logits([waveform])[0], waveforms * 4))
    for found, expected in zip(results, runtime.logits(waveforms) * 4, strict=True):
        assert_near(found, expected)


@pytest.fixture(params=["narrow", "wide"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy convolutions, which are narrow, as they are and as if they were wide enough for int8."""
    if request.param == "wide":
        monkeypatch.setattr(graph_features, "SCALED_FROM", 0)


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("name", [*TOYS, "stochastic-sew"])
def test_a_graph_written_for_int8_is_the_same_function(name: str) -> None:
    model = toy_model(name)
    point = resolve(model.config, None)
    plain, scaled = (ClipGraph(model, point, for_int8).eval() for for_int8 in (False, True))
    for size in (32_000, 9_871, 5_003, 1_360):
        inputs = tuple(map(torch.from_numpy, graph_inputs(synthetic_speech(size, 1))))
        count = num_frames(size, model.config.conv_layers)  # behind them one has frames that the other has not
        with torch.inference_mode():
            for one, other in zip(plain(*inputs), scaled(*inputs), strict=True):
                torch.testing.assert_close(other[:, :count], one[:, :count], atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("width")
def test_int8_hears_what_is_a_hundred_times_quieter_than_the_loudest(tmp_path: Path) -> None:
    """The extractor's frames follow the sound's loudness, so one scale for all of them would hold a few steps of it."""
    loud, quiet = synthetic_speech(16_000, 1), synthetic_speech(16_000, 2)
    clip = np.concatenate([loud, 0.01 * quiet])
    model = LoadedModel(build_model(TOYS["sew"].replace(normalize_input=False)).eval(), Alphabet.english())
    with new_folder(tmp_path / "int8") as draft:
        export(model, draft, "openvino", int8_clips=[clip])
    exact = make_runtime(model, "torch", "cpu", "float32").encode([clip])[0][55:]
    found = sewkit.load(tmp_path / "int8").encode([clip])[0][55:]
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact - exact.mean(0))


def test_onnxruntime_keeps_no_core_busy_behind_a_call() -> None:
    runtime = make_runtime(LoadedModel(toy_model("sew"), Alphabet.english()), "onnx", "cpu", "float32")
    runtime.logits(clips()[:1])
    (session,) = runtime.engine._sessions.values()
    assert session.get_session_options().get_session_config_entry("session.force_spinning_stop") == "1"


def test_clips_of_any_length_come_in_few_sizes_none_much_longer() -> None:
    lengths = range(400, 30 * 16_000, 77)
    sizes = {length: padded_size(length) for length in lengths}
    assert all(length + ZEROS <= size <= length * 9 / 8 + SIZE_UNIT + ZEROS for length, size in sizes.items())
    assert len(set(sizes.values())) < 90
    assert [padded_size(16_000 * seconds) - ZEROS for seconds in (1, 5, 10, 30)] == [16_000, 80_000, 160_000, 480_000]


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_an_offset_of_the_sound_does_not_hide_it_where_group_norm_takes_it_out(dtype: str, share: float) -> None:
    model = toy_model("sew").eval()
    clip = 0.01 * synthetic_speech(16_000, 1)
    exact = make_runtime(LoadedModel(model), "torch", "cpu", "float32").encode([clip])[0]
    found = make_runtime(LoadedModel(model), "openvino", "cpu", dtype).encode([clip + np.float32(0.5)])[0]
    assert np.linalg.norm(found - exact) < share * np.linalg.norm(exact)
