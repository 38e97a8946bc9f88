"""The published sizes, and what a configuration refuses."""

import pytest
import torch
from pydantic import ValidationError

from sewkit.config import PUBLISHED, ModelConfig, compact_conv_layers, wav2vec2_conv_layers
from sewkit.lengths import hop_samples, receptive_field
from sewkit.model import build_model
from sewkit.testing import TOYS

PARAMETERS = {
    "w2v2-base": 94_371_712,
    "w2v2-large": 315_428_992,
    "w2v2-large-lv60": 315_438_720,
    "sew-tiny": 40_708_895,
    "sew-small": 89_620_511,
    "sew-mid": 174_674_975,
    "sew-d-tiny": 24_115_103,
    "sew-d-small": 40_971_039,
    "sew-d-mid": 78_799_647,
    "sew-d-mid-k127": 80_372_607,
    "sew-d-base": 175_068_191,
    "sew-d-base-plus": 176_979_103,
}
"""Of the encoders without heads, mask vector included. Rounded to 0.01 M they are those of the papers and hub files
(40.71, 89.62, 174.67, 24.12, 40.97, 78.80, 80.37, 175.07, 176.98 and 94.37 M)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_their_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert build_model(PUBLISHED[name]).num_parameters() == PARAMETERS[name]


def test_every_pinned_size_is_published() -> None:
    assert PARAMETERS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_hear_400_samples_every_320(name: str) -> None:
    layers = PUBLISHED[name].conv_layers
    assert (hop_samples(layers), receptive_field(layers)) == (320, 400)


def test_compact_extractor_of_the_released_models() -> None:
    widths, kernels, strides = zip(*compact_conv_layers(64), strict=True)
    assert widths == (64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512)
    assert kernels == (10, 3, 1, 3, 1, 3, 1, 3, 1, 2, 1, 2, 1)
    assert strides == (5, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1)


def test_features_are_projected_where_sizes_differ() -> None:
    assert PUBLISHED["sew-small"].project_features  # 512 -> 768
    assert not PUBLISHED["sew-tiny"].project_features  # 512 = 512
    assert PUBLISHED["sew-tiny"].replace(hidden_size=256, num_heads=4).project_features
    assert TOYS["sew"].replace(project_features=True).replace(num_layers=1).project_features


@pytest.mark.parametrize("name", TOYS)
def test_a_configuration_survives_json(name: str) -> None:
    assert ModelConfig.model_validate_json(TOYS[name].model_dump_json()) == TOYS[name]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sew", {"num_heads": 3}, "hidden_size 32 is not a multiple of num_heads 3"),
        ("sew", {"pos_conv_groups": 5}, "not a multiple of pos_conv_groups 5"),
        ("sew", {"conv_layers": wav2vec2_conv_layers(8), "project_features": False}, "need a projection"),
        ("w2v2", {"squeeze_factor": 2}, "does not squeeze"),
        ("sew-d", {"norm_first": True}, "post-norm layers only"),
        ("sew", {"num_labels": 2}, "one head"),
        ("sew", {"squeeze_factor": 0}, "greater than or equal to 1"),
        ("sew", {"conv_layers": ()}, "at least 1"),
        ("sew", {"conv_layers": ((8, 10, 0),)}, "greater than or equal to 1"),
        ("sew", {"num_layers": 10**9}, "less than or equal to 1000"),
        ("sew", {"vocab_size": 10**30}, "less than or equal to 65536"),
        (
            "sew-d",
            {"position_buckets": 256, "max_positions": 129},
            "max_positions 129 leaves no log buckets beyond 128",
        ),
        ("sew", {"family": "hubert"}, "Input should be 'wav2vec2', 'sew' or 'sew-d'"),
        ("sew", {"layers": 12}, "Extra inputs are not permitted"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(name: str, changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TOYS[name].replace(**changes)
