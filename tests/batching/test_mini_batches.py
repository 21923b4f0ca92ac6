"""Mini-batches: each text once, within the limits, at the lowest cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_bench.batching.batches import TextBatch, pad
from splade_bench.batching.mini_batches import MiniBatch, cut_into_mini_batches, require_right_padding
from splade_bench.errors import ConfigError

MAX_WIDTH = 12
Texts = list[list[int]]


def numbered_groups(lengths: Sequence[Sequence[int]], extra_width: int) -> tuple[list[TextBatch], Texts]:
    """Groups of texts of the given lengths, no two tokens alike, each group padded a little wider than it must be."""
    token, groups, texts = 1, [], []
    for group in lengths:
        made = [list(range(token + sum(group[:row]), token + sum(group[: row + 1]))) for row in range(len(group))]
        token += sum(group)
        groups.append(pad(made, pad_token_id=0, width=min(MAX_WIDTH, max(1, *group) + extra_width)))
        texts.extend(made)
    return groups, texts


def tokens_of(mini_batch: MiniBatch) -> Texts:
    texts = mini_batch.texts
    return [ids[mask.bool()].tolist() for ids, mask in zip(texts.input_ids, texts.attention_mask, strict=True)]


GROUPS = st.lists(st.lists(st.integers(0, MAX_WIDTH), min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    lengths=GROUPS,
    extra_width=st.integers(0, 4),
    max_tokens=st.integers(1, 60),
    max_texts=st.none() | st.integers(1, 7),
    multiple=st.integers(1, 8),
)
def test_every_text_comes_once_whole_within_its_budget_and_the_largest_first(
    lengths: list[list[int]], extra_width: int, max_tokens: int, max_texts: int | None, multiple: int
) -> None:
    groups, texts = numbered_groups(lengths, extra_width)
    widest = max(group.input_ids.shape[1] for group in groups)

    made = cut_into_mini_batches(groups, max_tokens=max_tokens, max_texts=max_texts, pad_to_multiple_of=multiple)

    rows = torch.cat([mini_batch.rows for mini_batch in made]).tolist()
    assert sorted(rows) == list(range(len(texts)))
    for mini_batch in made:
        count, width = mini_batch.texts.input_ids.shape
        assert tokens_of(mini_batch) == [texts[row] for row in mini_batch.rows.tolist()]
        assert mini_batch.texts.lengths == tuple(len(texts[row]) for row in mini_batch.rows.tolist())
        assert count * width <= max_tokens or count == 1
        assert count <= (max_texts or len(texts))
        assert width == widest or width % multiple == 0
        assert max(1, *mini_batch.texts.lengths) <= width < max(1, *mini_batch.texts.lengths) + multiple
        require_right_padding([mini_batch.texts])
    tokens = [mini_batch.texts.input_ids.numel() for mini_batch in made]
    assert tokens == sorted(tokens, reverse=True)
    by_length = sorted(made, key=lambda mini_batch: sorted(mini_batch.texts.lengths))
    for shorter, longer in pairwise(by_length):
        assert max(shorter.texts.lengths) <= min(longer.texts.lengths)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=7),
    max_tokens=st.integers(1, 1000),
    max_texts=st.integers(1, 7),
)
def test_no_other_cut_costs_less(lengths: list[int], max_tokens: int, max_texts: int) -> None:
    texts = pad([[1] * length for length in lengths], pad_token_id=0)

    made = cut_into_mini_batches([texts], max_tokens=max_tokens, max_texts=max_texts)

    costs = [mini_batch.texts.input_ids.numel() + 64 for mini_batch in made]
    cheapest = min(all_costs(sorted(lengths, reverse=True), max_tokens, max_texts))
    if len(made) == 1:  # then nothing is computed twice, and that is worth a third
        assert 3 * sum(costs) <= 4 * cheapest
    else:
        assert sum(costs) == cheapest


def all_costs(lengths: Sequence[int], max_tokens: int, max_texts: int) -> list[int]:
    """Of every way to cut texts of falling lengths into runs that are allowed."""
    if not lengths:
        return [0]
    counts = [
        count for count in range(1, min(len(lengths), max_texts) + 1) if count == 1 or count * lengths[0] <= max_tokens
    ]
    return [
        count * lengths[0] + 64 + rest for count in counts for rest in all_costs(lengths[count:], max_tokens, max_texts)
    ]


def test_a_batch_that_fits_is_cut_only_where_padding_costs_more_than_computing_twice() -> None:
    for lengths, mini_batches in (((40, 30, 20, 10), 1), ((200, 200, 10, 10), 2)):
        texts = pad([[1] * length for length in lengths], pad_token_id=0)

        assert len(cut_into_mini_batches([texts], max_tokens=10_000, max_texts=None)) == mini_batches


def test_a_batch_whose_graphs_are_all_kept_is_cut_where_padding_costs_more_than_a_mini_batch() -> None:
    for lengths, mini_batches in (((40, 30, 20, 10), 1), ((90, 30), 1), ((160, 40), 2)):
        texts = pad([[1] * length for length in lengths], pad_token_id=0)
        made = cut_into_mini_batches([texts], max_tokens=10_000, max_texts=None, computed_twice=False)

        assert len(made) == mini_batches


def test_a_short_text_does_not_share_a_mini_batch_with_long_ones_for_the_room_in_it() -> None:
    texts = pad([[1] * length for length in (200, 200, 10, 10)], pad_token_id=0)

    long, short = cut_into_mini_batches([texts], max_tokens=1000, max_texts=None)

    assert short.texts.lengths == (10, 10)
    assert long.texts.lengths == (200, 200)


def test_texts_of_different_groups_share_a_mini_batch() -> None:
    groups, _ = numbered_groups([[2, 9], [9, 2, 2]], extra_width=0)

    long, short = cut_into_mini_batches(groups, max_tokens=18, max_texts=3)

    assert sorted(short.rows.tolist()) == [0, 3, 4]
    assert sorted(long.rows.tolist()) == [1, 2]
    assert short.texts.input_ids.shape == (3, 2)


def test_a_batch_that_fits_is_one_mini_batch() -> None:
    groups, _ = numbered_groups([[2, 3], [4]], extra_width=0)

    (only,) = cut_into_mini_batches(groups, max_tokens=12, max_texts=None)

    assert only.texts.lengths == (4, 3, 2)


@pytest.mark.parametrize(
    "mask", [[[0, 1, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 1]], [[1, 0, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]]
)
def test_texts_that_are_not_padded_on_the_right_or_not_of_their_length_are_refused(mask: list[list[int]]) -> None:
    right = TextBatch(torch.ones(2, 3).long(), torch.tensor([[1, 1, 0], [1, 1, 1]]), (2, 3))
    wrong = TextBatch(torch.ones(2, 3).long(), torch.tensor(mask), (2, 3))

    require_right_padding([right])
    with pytest.raises(ConfigError, match="--no-gradient-caching") as caught:
        require_right_padding([right, wrong])

    assert "\n" not in str(caught.value)
