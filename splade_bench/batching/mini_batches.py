"""A batch cut into mini-batches of texts of like length, each trimmed to its own longest text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.batching.batches import TextBatch, round_up
from splade_bench.device.reads import read_numbers
from splade_bench.errors import ConfigError

# What a mini-batch costs beyond its tokens, in tokens: weights are read and gradients added to once more for each.
# Measured on 6 x 384 and 12 x 768 (reports/NEGATIVE.md).
_MINI_BATCH_COST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """Some texts of a batch, and where they stand among all of them."""

    texts: TextBatch
    rows: Tensor
    """Row of each text when the groups are put one after another, int64 [N], on the texts' device."""


def cut_into_mini_batches(
    groups: Sequence[TextBatch], *, max_tokens: int, max_texts: int | None, pad_to_multiple_of: int | None = None
) -> list[MiniBatch]:
    """All texts of ``groups`` in mini-batches of at most ``max_tokens`` tokens, padding included; the largest is last.

    A longer text is a mini-batch by itself. Texts of all groups mix: a query goes with documents of its length. Cut so
    that padding is weighed against the price of one more mini-batch. Reads no tensor: ``groups`` are padded on the
    right, and their lengths say where.
    """
    lengths = [length for group in groups for length in group.lengths]
    longest_first = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    input_ids = _concatenated([group.input_ids for group in groups])
    attention_mask = _concatenated([group.attention_mask for group in groups])
    widths = [round_up(max(1, lengths[row]), pad_to_multiple_of, at_most=input_ids.shape[1]) for row in longest_first]
    made = []
    for start, end in _cuts(widths, max_tokens=max_tokens, max_texts=max_texts or len(lengths)):
        chosen, width = longest_first[start:end], widths[start]
        rows = torch.tensor(chosen, device=input_ids.device)
        texts = TextBatch(input_ids[rows, :width], attention_mask[rows, :width], tuple(lengths[row] for row in chosen))
        made.append(MiniBatch(texts, rows))
    return sorted(made, key=lambda mini_batch: mini_batch.texts.input_ids.numel())


def _cuts(widths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[tuple[int, int]]:
    """Where to cut texts of falling widths, as (start, end)."""
    cuts = _cheapest_cuts(widths, max_tokens=max_tokens, max_texts=max_texts)
    if len(widths) > max_texts or widths[0] * len(widths) > max_tokens:
        return cuts
    # All of it fits. A cached step computes all mini-batches but the largest twice: forward, forward, and backward at
    # the price of two forwards. Uncut, nothing is.
    costs = [widths[start] * (end - start) + _MINI_BATCH_COST_TOKENS for start, end in cuts]
    uncut = widths[0] * len(widths) + _MINI_BATCH_COST_TOKENS
    return cuts if 4 * sum(costs) - max(costs) < 3 * uncut else [(0, len(widths))]


def _cheapest_cuts(widths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[tuple[int, int]]:
    """The cuts for which padding and mini-batches cost least together."""
    costs = [0]  # of the first texts, by how many they are
    starts = [0]  # of the last mini-batch among them
    for end in range(1, len(widths) + 1):
        options = []
        for start in range(end - 1, max(0, end - max_texts) - 1, -1):
            tokens = widths[start] * (end - start)
            if tokens > max_tokens and end - start > 1:
                break  # nor will more texts fit
            options.append((costs[start] + tokens + _MINI_BATCH_COST_TOKENS, start))
        cost, start = min(options)
        costs.append(cost)
        starts.append(start)
    cuts = []
    end = len(widths)
    while end:
        cuts.append((starts[end], end))
        end = starts[end]
    return cuts


def require_right_padding(groups: Sequence[TextBatch]) -> None:
    """Raise a :class:`ConfigError` unless every text's tokens come first: only then can a width be cut off.

    Reads the masks, so it is for batches that are still on the CPU.
    """
    for group in groups:
        positions = torch.arange(group.attention_mask.shape[1], device=group.attention_mask.device)
        lengths = torch.tensor(group.lengths, device=group.attention_mask.device)
        as_lengths_say = (group.attention_mask.bool() == (positions < lengths[:, None])).all()
        if not read_numbers(as_lengths_say.unsqueeze(0), planned=[True])[0]:
            raise ConfigError(
                "--gradient-caching: a batch is not padded on the right, or its lengths do not fit its attention mask; "
                "pad it on the right or use --no-gradient-caching"
            )


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """[n_i, L_i] for each group -> [sum of n_i, max of L_i], zeros where a group is narrower."""
    width = max(tensor.shape[1] for tensor in tensors)
    result = tensors[0].new_zeros(sum(len(tensor) for tensor in tensors), width)
    start = 0
    for tensor in tensors:
        result[start : start + len(tensor), : tensor.shape[1]] = tensor
        start += len(tensor)
    return result
