"""SEW-D's relative positions: buckets as DeBERTa's code gives them, and the score formula written out pair by pair."""

import json
import math
from pathlib import Path

import pytest
import torch

from sewkit.model.disentangled import DisentangledAttention, RelativePositions, log_buckets

TABLES = json.loads((Path(__file__).parents[1] / "golden/data/bucket_tables.json").read_text())["tables"]


@pytest.mark.parametrize("name", TABLES)
def test_buckets_are_those_of_the_original(name: str) -> None:
    table = TABLES[name]
    num_buckets, max_positions = (int(part.split("=")[1]) for part in name.split(","))
    distances = torch.arange(table["distance_from"], table["distance_to"] + 1)
    assert log_buckets(distances, num_buckets, max_positions).tolist() == table["bucket"]


def test_buckets_of_distances_beyond_the_table() -> None:
    distances = torch.tensor([127, 128, 129, 130, 140, 200, 256, 400, 510, 511, 512, 600, 1000])
    expected = [127, 128, 129, 130, 137, 169, 192, 233, 255, 255, 256, 270, 317]
    assert log_buckets(distances, 256, 512).tolist() == expected
    assert log_buckets(-distances, 256, 512).tolist() == [-bucket for bucket in expected]


@pytest.mark.parametrize("num_frames", [1, 2, 5, 9, 40])
def test_only_reachable_rows_are_used_and_they_are_the_right_ones(num_frames: int) -> None:
    positions = RelativePositions(8, num_buckets=8, max_positions=16, eps=1e-7)
    rows, index = positions(num_frames)
    whole = positions.norm(positions.embedding)
    for i in range(num_frames):
        for j in range(num_frames):
            row = min(max(int(log_buckets(torch.tensor(i - j), 8, 16)) + 8, 0), 15)
            torch.testing.assert_close(rows[index[i, j]], whole[row])
    assert len(rows) <= min(16, 2 * num_frames - 1)


def test_scores_are_the_three_terms_of_the_formula() -> None:
    """Content, content to position and position to content, each over sqrt(3 D); tolerance of float32 sums."""
    torch.manual_seed(0)
    hidden, heads, frames = 8, 2, 11
    size = hidden // heads
    attention = DisentangledAttention(hidden, heads, dropout=0.0, position_dropout=0.0).eval()
    positions = RelativePositions(hidden, num_buckets=4, max_positions=8, eps=1e-7)
    x = torch.randn(1, frames, hidden)
    table, index = positions(frames)
    with torch.inference_mode():
        found = attention(x, None, (table, index))
        query, key, value = (layer(x[0]) for layer in (attention.query, attention.key, attention.value))
        table_key, table_query = attention.key(table), attention.query(table)
        contexts = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.zeros(frames, frames)
            for i in range(frames):
                for j in range(frames):
                    row = index[i, j]
                    scores[i, j] = (
                        query[i, part] @ key[j, part]
                        + query[i, part] @ table_key[row, part]
                        + key[j, part] @ table_query[row, part]
                    )
            contexts.append((scores / math.sqrt(3 * size)).softmax(1) @ value[:, part])
        expected = attention.output(torch.cat(contexts, 1))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
