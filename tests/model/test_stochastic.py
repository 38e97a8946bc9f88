"""Stochastic models: the algebra of squeezing and pooling, at every operating point, for odd, even and tiny clips.

Tolerance 1e-4 between a batch and its clips alone, 1e-5 between pooled and plain attention over toy encoders (the same
sums in another order, measured below 1e-5 and 2e-6); where it says exactly, bit for bit.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sewkit.chunks import aligned_hops
from sewkit.compute import Compute, draw_compute, macs, operating_points, resolve
from sewkit.config import Stochastic
from sewkit.errors import UserError
from sewkit.lengths import informed_length
from sewkit.model import SpeechModel
from sewkit.model.disentangled import DisentangledAttention, RelativePositions, window_distances
from sewkit.model.pooling import Pooling, Windows
from sewkit.model.stochastic import make_stochastic, specialise
from sewkit.testing import STOCHASTIC_TOYS, TOYS, padded_batch, synthetic_speech, toy_model

TOLERANCE, CLOSE = 1e-4, 1e-5
FIXED = ("sew", "sew-s3", "sew-d", "w2v2", "w2v2-prenorm")
POINTS = operating_points(STOCHASTIC_TOYS["stochastic-sew"])
NUM_SAMPLES = (16_000, 10_050, 9_871, 5_003, 1_360, 1_040, 720, 400, 1)
"""49, 31, 30, 15, 4, 3, 2, 1, 0 frames."""


@pytest.fixture(scope="module", params=STOCHASTIC_TOYS)
def toy(request: pytest.FixtureRequest) -> SpeechModel:
    return toy_model(request.param)


def clips() -> list[np.ndarray]:
    return [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]


@torch.inference_mode()
def run(model: SpeechModel, waveforms: list[np.ndarray], compute: Compute | None = None) -> list[torch.Tensor]:
    """Valid frames of each waveform's logits, from one batch."""
    output, lengths = model(*padded_batch(waveforms), compute)
    return [row[:length] for row, length in zip(output, lengths.tolist(), strict=True)]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


# ---- operating points --------------------------------------------------------------------------------------------

POOLS = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple)


@given(st.builds(Compute, st.integers(1, 9), POOLS, POOLS))
def test_an_operating_point_is_what_its_text_says(compute: Compute) -> None:
    assert Compute.parse(str(compute)) == compute


def test_operating_points_as_text() -> None:
    assert str(Compute(4, 1, 2)) == "squeeze=4,kv_pool=2"
    assert str(Compute(2, (1, 1, 2), 1)) == "squeeze=2,query_pool=1/1/2"
    assert Compute.parse(" kv_pool = 2 , squeeze=3") == Compute(3, 1, 2)
    assert Compute.parse("kv_pool=2", Compute(3, 2, 1)) == Compute(3, 2, 2)


@pytest.mark.parametrize(
    "text", ["", "squeeze", "squeeze=", "squeeze=x", "squeeze=-1", "squeeze=2/2", "pool=2", "squeeze=1,squeeze=2", "²"]
)
def test_text_that_is_no_operating_point_is_refused_on_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^operating point .*: expected some of squeeze, query_pool and kv_pool .*$"):
        Compute.parse(text)


@pytest.mark.parametrize("values", [{"squeeze": 0}, {"kv_pool": (1, 0)}, {"query_pool": ()}, {"squeeze": 1.5}])
def test_operating_points_of_nothing_are_refused(values: dict) -> None:
    with pytest.raises(UserError, match="expected a whole number of at least 1"):
        Compute(**values)


def test_the_grid_is_every_combination_cheapest_first() -> None:
    config = STOCHASTIC_TOYS["stochastic-sew"]
    assert len(POINTS) == len(set(POINTS)) == 16
    costs = [sum(macs(config, 160_000, point).values()) for point in POINTS]
    assert costs == sorted(costs)
    assert (POINTS[0], POINTS[-1]) == (Compute(4, 2, 2), Compute(1, 1, 1))
    assert resolve(config, None) == POINTS[-1]
    assert operating_points(TOYS["sew"]) == (Compute(2),)


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("stochastic-sew", Compute(5), "does not run at squeeze=5; it runs at: squeeze 1, 2, 3, 4; query_pool 1, 2; "),
        (
            "stochastic-sew",
            "squeeze=2,kv_pool=3",
            "does not run at squeeze=2,kv_pool=3; it runs at: squeeze 1, 2, 3, 4",
        ),
        ("stochastic-sew", Compute(2, 1, (1, 2, 1)), "does not run at squeeze=2,kv_pool=1/2/1; it runs at"),
        ("stochastic-sew", Compute(2, 1, (1, 3)), "does not run at squeeze=2,kv_pool=1/3; it runs at"),
        ("sew", Compute(4), "does not run at squeeze=4; it runs at: squeeze=2 only"),
        ("sew", "kv_pool=2", "does not run at squeeze=2,kv_pool=2; it runs at: squeeze=2 only"),
    ],
)
def test_a_point_that_the_model_lacks_is_refused_with_those_it_has(name: str, request_, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve({**TOYS, **STOCHASTIC_TOYS}[name], request_)
    assert "\n" not in str(error.value)


def test_draws_are_uniform_and_a_function_of_seed_update_and_micro_batch_only() -> None:
    config = STOCHASTIC_TOYS["stochastic-sew"]
    places = [(1, update, index) for update in range(400) for index in range(4)]
    drawn = [draw_compute(config, *place) for place in places]
    torch.manual_seed(3)
    np.random.default_rng().random()
    assert drawn == [draw_compute(config, *place) for place in places]
    for point in POINTS:
        assert drawn.count(point) == pytest.approx(100, abs=50)  # five standard deviations
    assert [draw_compute(config, 2, *place[1:]) for place in places] != drawn


def test_pools_can_be_drawn_for_each_layer() -> None:
    config = STOCHASTIC_TOYS["stochastic-sew"].replace(num_layers=6)
    drawn = [draw_compute(config, 0, update, 0, per_layer=True) for update in range(50)]
    assert all(resolve(config, compute) == compute for compute in drawn)
    assert len({compute.kv_pool for compute in drawn}) > 20
    assert any(compute.kv_pool != compute.query_pool for compute in drawn)


@pytest.mark.parametrize("name", STOCHASTIC_TOYS)
@pytest.mark.parametrize(
    "point", [Compute(1), Compute(2, 2, 1), Compute(3, 1, 2), Compute(4, 2, 2), Compute(2, (1, 2), 1)]
)
def test_counted_cost_is_that_of_the_operations_that_run(name: str, point: Compute) -> None:
    config = STOCHASTIC_TOYS[name].replace(position_buckets=64, max_positions=512)  # all distances have their own
    model, counter = toy_model(config), FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        model(*padded_batch([synthetic_speech(8_000)]), point)
    norms = counter.get_flop_counts()["SpeechModel.features.blocks.0.norm"]  # not counted, as is said in `macs`
    counted = (counter.get_total_flops() - sum(norms.values())) / 2
    assert sum(macs(model.config, 8_000, point).values()) == pytest.approx(counted, rel=0.01)


# ---- fixed and stochastic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXED)
def test_made_stochastic_a_model_is_exactly_itself_at_its_factor_and_finite_elsewhere(name: str) -> None:
    model = toy_model(name)
    stochastic = make_stochastic(model)
    own = Compute(model.config.squeeze_factor)
    for found, expected in zip(run(stochastic, clips(), own), run(model, clips()), strict=True):
        assert torch.equal(found, expected)
    for point in operating_points(stochastic.config):
        for row in run(stochastic, clips(), point):
            assert row.isfinite().all()


@pytest.mark.parametrize("point", [*POINTS, Compute(2, (1, 2), (2, 1))], ids=str)
def test_one_point_made_a_fixed_model_is_exactly_that_point(toy: SpeechModel, point: Compute) -> None:
    fixed = specialise(toy, point)
    assert operating_points(fixed.config) == (point,)
    assert not fixed.config.is_stochastic
    for found, expected in zip(run(fixed, clips()), run(toy, clips(), point), strict=True):
        assert torch.equal(found, expected)


def test_without_pooling_a_fixed_point_is_a_plain_sew_of_the_same_weights() -> None:
    toy = toy_model("stochastic-sew")
    plain = toy_model(TOYS["sew"])
    weights = toy.state_dict()
    shared = {name: weights[name.replace("upsample.", "upsample.2.")] for name in plain.state_dict()}
    plain.load_state_dict(shared)
    assert specialise(toy, Compute(2)).config == plain.config
    for found, expected in zip(run(toy, clips(), Compute(2)), run(plain, clips()), strict=True):
        assert torch.equal(found, expected)


def test_a_stochastic_wav2vec2_is_wav2vec2_at_1_and_sew_elsewhere() -> None:
    model = toy_model("stochastic-w2v2")
    assert specialise(model, Compute(1)).config == TOYS["w2v2"]
    assert specialise(model, Compute(1)).upsample is None
    assert specialise(model, Compute(3)).config == TOYS["w2v2"].replace(family="sew", squeeze_factor=3)


@pytest.mark.parametrize("name", FIXED)
def test_there_and_back_gives_the_same_model(name: str) -> None:
    model = toy_model(name)
    back = specialise(make_stochastic(model), Compute(model.config.squeeze_factor))
    assert back.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key


def test_other_factors_begin_with_sub_frames_interpolated_in_time() -> None:
    model = toy_model("sew")
    hidden = model.config.hidden_size
    early, late = model.upsample.linear.weight.split(hidden)
    made = make_stochastic(model).upsample
    torch.testing.assert_close(made["1"].linear.weight, (early + late) / 2)
    first, second, third, fourth = made["4"].linear.weight.split(hidden)
    torch.testing.assert_close(first, early)
    torch.testing.assert_close(second, 0.75 * early + 0.25 * late)
    torch.testing.assert_close(third, 0.25 * early + 0.75 * late)
    torch.testing.assert_close(fourth, late)


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        ("sew", Stochastic(squeeze_factors=(1, 4)), r"squeeze_factors \(1, 4\) without 2, which the model"),
        ("sew", Stochastic(kv_pools=(2, 4)), r"kv_pools \(2, 4\) without 1"),
        ("stochastic-sew", Stochastic(), "stochastic already"),
    ],
)
def test_what_cannot_be_made_stochastic_is_refused(name: str, sets: Stochastic, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_stochastic(toy_model(name), sets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"squeeze_factors": ()}, "at least 1"),
        ({"squeeze_factors": (2, 2)}, "something twice"),
        ({"kv_pools": (1, (1, 2, 1))}, "kv_pools: 3 pools for 2 layers"),
        ({"query_pools": (0,)}, "greater than or equal to 1"),
        ({"squeeze_factor": 2, "squeeze_factors": (1, 2)}, "give squeeze_factor, which is short"),
    ],
)
def test_sets_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TOYS["sew"].replace(**changes)


# ---- pooling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_batch_gives_what_each_clip_gives_alone(toy: SpeechModel, point: Compute) -> None:
    together = run(toy, clips(), point)
    assert_same(together, [run(toy, [clip], point)[0] for clip in clips()])
    for row in together:
        informed = informed_length(len(row), point.squeeze)
        assert_same([row[informed:]], [toy.head.bias.detach().expand(len(row) - informed, -1)])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(STOCHASTIC_TOYS)),
    point=st.sampled_from([*POINTS, Compute(1, (1, 2), 2), Compute(3, (2, 1), (1, 2))]),
    sizes=st.lists(st.integers(0, 6_000), min_size=2, max_size=3),
)
def test_any_batch_gives_what_each_clip_gives_alone(name: str, point: Compute, sizes: list[int]) -> None:
    model = toy_model(name)
    waveforms = [synthetic_speech(size, seed) for seed, size in enumerate(sizes)]
    assert_same(run(model, waveforms, point), [run(model, [waveform], point)[0] for waveform in waveforms])


@pytest.mark.parametrize("point", [Compute(1, 2, 2), Compute(2, 2, 1), Compute(3, 1, 2)], ids=str)
def test_what_stands_in_the_padding_plays_no_part(toy: SpeechModel, point: Compute) -> None:
    batch, lengths = padded_batch(clips())
    dirty = batch.clone()
    for row, length in zip(dirty, lengths.tolist(), strict=True):
        row[length:] = torch.randn(len(row) - length) * 100
    with torch.inference_mode():
        clean_output, frames = toy(batch, lengths, point)
        dirty_output, _ = toy(dirty, lengths, point)
    for clean, other, length in zip(clean_output, dirty_output, frames.tolist(), strict=True):
        torch.testing.assert_close(clean[:length], other[:length], atol=TOLERANCE, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    norm_first=st.booleans(),
    window=st.integers(2, 4),
    pools=st.sampled_from(["query", "key", "both"]),
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=3),
    extra=st.integers(0, 3),
)
def test_where_frames_of_a_window_are_alike_pooling_changes_nothing(
    norm_first: bool, window: int, pools: str, lengths: list[int], extra: int
) -> None:
    """Through whole encoders with plain attention, partly filled last windows included, padded or not."""
    encoder = toy_model(TOYS["sew"].replace(norm_first=norm_first)).encoder
    size = max(lengths) + extra
    x = torch.randn(len(lengths), -(-size // window), 32).repeat_interleave(window, dim=1)[:, :size]
    compute = Compute(1, window if pools != "key" else 1, window if pools != "query" else 1)
    with torch.inference_mode():
        plain = encoder(x, torch.tensor(lengths))[-1]
        pooled = encoder(x, torch.tensor(lengths), compute)[-1]
    for one, other, length in zip(pooled, plain, lengths, strict=True):
        torch.testing.assert_close(one[:length], other[:length], atol=CLOSE, rtol=0)


def test_pooling_does_something_where_frames_differ(toy: SpeechModel) -> None:
    outputs = [run(toy, clips()[:1], Compute(2, *pools))[0] for pools in ((1, 1), (1, 2), (2, 1), (2, 2))]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert (one - other).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(("query_pool", "kv_pool"), [(1, 3), (3, 1), ((2, 1), (1, 3))])
def test_queries_and_keys_are_pooled_in_the_layers_that_say_so(
    toy: SpeechModel, query_pool, kv_pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, seen = Compute(2, query_pool, kv_pool), []
    for layer in toy.encoder.layers:

        def attend(query, key, value, *rest, original=layer.attention.attend):
            seen.append((query.shape[2], key.shape[2], value.shape[2]))
            return original(query, key, value, *rest)

        monkeypatch.setattr(layer.attention, "attend", attend)
    with torch.inference_mode():
        toy.encoder(torch.randn(1, 11, 32), torch.tensor([11]), compute)
    query_pools, kv_pools = ((pool,) * 2 if isinstance(pool, int) else pool for pool in (query_pool, kv_pool))
    for shapes, query, key in zip(seen, query_pools, kv_pools, strict=True):
        assert shapes == (-(-11 // query), -(-11 // key), -(-11 // key))


def test_windows_of_one_frame_change_nothing() -> None:
    lengths = torch.tensor([5, 2])
    assert Windows.over(lengths, 5, 1) is None
    x, one = torch.randn(2, 5, 4), Windows(1, 5, lengths)
    pooled, _ = Pooling(one, one).pool(x)
    assert torch.equal(pooled[0], x[0])
    assert torch.equal(pooled[1, :2], x[1, :2])
    assert torch.equal(one.spread(x), x)
    assert one.key_bias()[:, 0, 0].tolist() == [[0.0] * 5, [0.0] * 2 + [-math.inf] * 3]
    encoder = toy_model("sew").encoder
    with torch.inference_mode():
        for found, expected in zip(
            encoder(x := torch.randn(2, 5, 32), lengths, Compute(2, (1, 1), (1, 1))), encoder(x, lengths), strict=True
        ):
            assert torch.equal(found, expected)


def test_full_windows_without_padding_need_no_mask() -> None:
    """So that attention runs the same kernel as without pooling."""
    windows = Windows.over(torch.tensor([6, 6]), 6, 2)
    assert windows.lengths is None
    assert windows.key_bias() is None
    x = torch.randn(2, 6, 4)
    general = Windows(2, 6, torch.tensor([6, 6]))
    torch.testing.assert_close(windows.mean(x), general.mean(x))
    assert not general.key_bias().any()


def test_means_are_over_valid_frames_and_partly_filled_keys_weigh_by_them() -> None:
    windows = Windows.over(torch.tensor([5, 0]), 5, 3)
    x = torch.arange(10.0).reshape(2, 5, 1)
    assert windows.mean(x)[:, :, 0].tolist() == [[1.0, 3.5], [0.0, 0.0]]
    bias = windows.key_bias()[:, 0, 0]
    torch.testing.assert_close(bias[0], torch.tensor([0.0, math.log(2 / 3)]))
    assert bias[1].tolist() == [pytest.approx(math.log(1 / 3)), -math.inf]  # one must be attended to
    assert windows.spread(windows.mean(x))[0, :, 0].tolist() == [1.0, 1.0, 1.0, 3.5, 3.5]


# ---- relative positions ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_distances_are_between_centres_of_windows(frames: int, query: int, key: int, squeeze: int, unit: int) -> None:
    found = window_distances(frames, query, key, (squeeze, unit))
    assert found.shape == (-(-frames // query), -(-frames // key))
    for i, row in enumerate(found.tolist()):
        for j, distance in enumerate(row):
            centres = Fraction(2 * i * query + query - 1, 2), Fraction(2 * j * key + key - 1, 2)
            exact = (centres[0] - centres[1]) * squeeze / unit
            nearest = math.ceil(abs(exact) - Fraction(1, 2))  # a half towards 0
            assert distance == (nearest if exact > 0 else -nearest)


def test_frames_of_a_pooled_query_are_at_distance_0() -> None:
    assert window_distances(6, query_pool=2)[1].tolist() == [2, 1, 0, 0, -1, -2]


def test_positions_in_a_unit_of_time_are_the_same_for_all_factors() -> None:
    by_time, by_frame = (RelativePositions(8, 8, 16, 1e-7, unit) for unit in (2, None))
    by_time.load_state_dict(by_frame.state_dict())

    def vectors(positions: RelativePositions, squeeze: int) -> torch.Tensor:
        rows, index = positions(9, squeeze=squeeze)
        return rows[index]

    assert torch.equal(vectors(by_time, 2), vectors(by_frame, 2))
    assert torch.equal(vectors(by_frame, 4), vectors(by_frame, 2))
    assert torch.equal(vectors(by_time, 4)[0, 3], vectors(by_time, 2)[0, 6])  # both 240 ms
    assert torch.equal(vectors(by_time, 1)[8, 0], vectors(by_time, 2)[4, 0])


@pytest.mark.parametrize("unit", [1, 2])
def test_a_sew_d_with_positions_in_time_begins_exact_and_is_batch_invariant(unit: int) -> None:
    model = toy_model("sew-d")
    made = make_stochastic(model, Stochastic(position_unit=2))
    for found, expected in zip(run(made, clips(), Compute(2)), run(model, clips()), strict=True):
        assert torch.equal(found, expected)
    assert specialise(made, Compute(2)).config == model.config
    assert specialise(made, Compute(4)).config.position_unit == 2
    other = toy_model(STOCHASTIC_TOYS["stochastic-sew-d"].replace(position_unit=unit))
    for point in (Compute(3, 2, 1), Compute(1, 1, 2)):
        assert_same(run(other, clips(), point), [run(other, [clip], point)[0] for clip in clips()])
        for found, expected in zip(run(specialise(other, point), clips()), run(other, clips(), point), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(("query_pool", "kv_pool"), [(1, 2), (2, 1), (2, 2), (3, 2)])
def test_pooled_scores_of_sew_d_are_the_three_terms_of_the_formula(query_pool: int, kv_pool: int) -> None:
    """Content, content to position and position to content over sqrt(3 D), written out pair by pair."""
    torch.manual_seed(0)
    hidden, heads, frames, size = 8, 2, 11, 4
    attention = DisentangledAttention(hidden, heads, dropout=0.0, position_dropout=0.0).eval()
    positions = RelativePositions(hidden, num_buckets=4, max_positions=8, eps=1e-7)
    x, lengths = torch.randn(1, frames, hidden), torch.tensor([frames])
    pooling = Pooling(Windows.over(lengths, frames, query_pool), Windows.over(lengths, frames, kv_pool))
    table, index = positions(frames, query_pool, kv_pool)
    with torch.inference_mode():
        bias = pooling.keys.key_bias() if pooling.keys else None
        found = attention(x, bias, (table, index), pooling)[0]
        queries = torch.stack([x[0, i : i + query_pool].mean(0) for i in range(0, frames, query_pool)])
        keys = torch.stack([x[0, j : j + kv_pool].mean(0) for j in range(0, frames, kv_pool)])
        counts = torch.tensor([min(kv_pool, frames - j) for j in range(0, frames, kv_pool)])
        query, key, value = attention.query(queries), attention.key(keys), attention.value(keys)
        table_key, table_query = attention.key(table), attention.query(table)
        contexts = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.zeros(len(queries), len(keys))
            for i in range(len(queries)):
                for j in range(len(keys)):
                    row = index[i, j]
                    scores[i, j] = (
                        query[i, part] @ key[j, part]
                        + query[i, part] @ table_key[row, part]
                        + key[j, part] @ table_query[row, part]
                    )
            contexts.append((scores / math.sqrt(3 * size) + counts.log()).softmax(1) @ value[:, part])
        expected = attention.output(torch.cat(contexts, 1)).repeat_interleave(query_pool, 0)[:frames]
    torch.testing.assert_close(found, expected, atol=CLOSE, rtol=0)


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [Compute(1), Compute(2, 2, 1), Compute(3, 1, 2), Compute(4, 2, 2)], ids=str)
def test_every_weight_that_a_point_uses_gets_a_gradient_and_no_other(toy: SpeechModel, point: Compute) -> None:
    model = make_stochastic(specialise(toy, Compute(toy.config.squeeze_factor)))
    logits, _ = model(*padded_batch(clips()[:3]), point)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        unused = name == "mask_embedding" or (
            name.startswith("upsample.") and not name.startswith(f"upsample.{point.squeeze}.")
        )
        if unused:
            assert parameter.grad is None, name
        elif not name.endswith("key.bias") or model.config.family == "sew-d":  # softmax does not see a key's bias
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("name", ["stochastic-sew", "stochastic-sew-d"])
def test_checkpoints_of_activations_change_no_gradient_at_pooled_points(name: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        encoder = toy_model(name).encoder.train()
        encoder.checkpoint_layers = checkpointed
        encoder.layer_random.manual_seed(3)
        torch.manual_seed(4)
        x = torch.randn(2, 9, 32)
        encoder(x, torch.tensor([9, 7]), Compute(2, (2, 1), (1, 2)))[-1].square().sum().backward()
        gradients.append({key: parameter.grad for key, parameter in encoder.named_parameters()})
    for key, expected in gradients[0].items():
        assert expected is None if gradients[1][key] is None else torch.equal(gradients[1][key], expected), key


def test_chunks_are_aligned_with_all_windows_of_a_model() -> None:
    assert aligned_hops(TOYS["sew"]) == 12
    hops = aligned_hops(STOCHASTIC_TOYS["stochastic-sew"])
    assert all(hops % (point.squeeze * pool) == 0 for point in POINTS for pool in (point.query_pool, point.kv_pool))
    odd = STOCHASTIC_TOYS["stochastic-sew"].replace(squeeze_factors=(1, 5, 7), kv_pools=(1, 11))
    assert aligned_hops(odd) == 12
