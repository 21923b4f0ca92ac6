"""A batch cut into mini-batches of texts of similar length, each trimmed to its own longest text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.batching.batches import TextBatch, round_up
from splade_bench.batching.transfer import on_device
from splade_bench.device.reads import read_numbers
from splade_bench.errors import ConfigError

# Cost of one more mini-batch, in tokens: weights are read, and gradients added to, once more. Measured on 6 x 384 and
# 12 x 768 (reports/NEGATIVE.md).
_MINI_BATCH_COST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """Some texts of a batch, and their rows in it."""

    texts: TextBatch
    rows: Tensor
    """Row of each text in the concatenated groups, int64 [N], on the texts' device."""


def cut_into_mini_batches(
    groups: Sequence[TextBatch],
    *,
    max_tokens: int,
    max_texts: int | None,
    pad_to_multiple_of: int | None = None,
    computed_twice: bool = True,
    first_row: int = 0,
) -> list[MiniBatch]:
    """All texts of ``groups`` in mini-batches of at most ``max_tokens`` tokens, padding included; the largest is first.

    A longer text is a mini-batch by itself. Groups mix: a query can be with documents of its length. The cuts weigh
    padding against the cost of one more mini-batch, and against that of computing all but the largest twice, if
    ``computed_twice``. Reads no tensor: ``groups`` are padded on the right, so their lengths are enough. The first text
    has the row ``first_row``.
    """
    lengths = [length for group in groups for length in group.lengths]
    longest_first = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    width = max(group.input_ids.shape[1] for group in groups)
    input_ids, attention_mask = (
        torch.cat([F.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])
        for tensors in zip(*((group.input_ids, group.attention_mask) for group in groups), strict=True)
    )
    widths = [round_up(max(1, lengths[row]), pad_to_multiple_of, at_most=width) for row in longest_first]
    mini_batches = []
    limits = {"max_tokens": max_tokens, "max_texts": max_texts or len(lengths)}
    for start, end in _cuts(widths, **limits, computed_twice=computed_twice):
        chosen, width = longest_first[start:end], widths[start]
        rows = torch.tensor(chosen, device=input_ids.device)
        texts = TextBatch(input_ids[rows, :width], attention_mask[rows, :width], tuple(lengths[row] for row in chosen))
        mini_batches.append(MiniBatch(texts, rows + first_row))
    return sorted(mini_batches, key=lambda mini_batch: mini_batch.texts.input_ids.numel(), reverse=True)


def moved_to(mini_batches: Sequence[MiniBatch], device: torch.device) -> list[MiniBatch]:
    """The same mini-batches on a device, by one copy."""
    tensors = [tensor for one in mini_batches for tensor in (one.texts.input_ids, one.texts.attention_mask, one.rows)]
    moved = iter(on_device(tensors, device))
    return [MiniBatch(TextBatch(next(moved), next(moved), one.texts.lengths), next(moved)) for one in mini_batches]


def _cuts(widths: Sequence[int], *, max_tokens: int, max_texts: int, computed_twice: bool) -> list[tuple[int, int]]:
    """The cuts of texts with falling widths, as (start, end)."""
    cuts = _cheapest_cuts(widths, max_tokens=max_tokens, max_texts=max_texts)
    if not widths or not computed_twice or len(widths) > max_texts or widths[0] * len(widths) > max_tokens:
        return cuts
    # The whole batch fits. A cached step computes all mini-batches but the largest twice: forward, forward, and a
    # backward that costs two forwards. Uncut, nothing is computed twice.
    costs = [widths[start] * (end - start) + _MINI_BATCH_COST_TOKENS for start, end in cuts]
    uncut = widths[0] * len(widths) + _MINI_BATCH_COST_TOKENS
    return cuts if 4 * sum(costs) - max(costs) < 3 * uncut else [(0, len(widths))]


def _cheapest_cuts(widths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[tuple[int, int]]:
    """The cuts with the lowest cost of padding and mini-batches together."""
    costs = [0]  # by number of texts, from the first
    starts = [0]  # of the last mini-batch among these
    for end in range(1, len(widths) + 1):
        options = []
        for start in range(end - 1, max(0, end - max_texts) - 1, -1):
            tokens = widths[start] * (end - start)
            if tokens > max_tokens and end - start > 1:
                break  # more texts will not fit either
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
    """Raise a :class:`ConfigError` unless every text's tokens come first: only then may a batch be trimmed.

    Reads the masks, so call it while the batch is on the CPU.
    """
    for group in groups:
        positions = torch.arange(group.attention_mask.shape[1], device=group.attention_mask.device)
        lengths = torch.tensor(group.lengths, device=group.attention_mask.device)
        is_padded = (group.attention_mask.bool() == (positions < lengths[:, None])).all()
        if not read_numbers(is_padded.unsqueeze(0), planned=[True])[0]:
            raise ConfigError(
                "--gradient-caching: the texts of a batch must be padded on the right, and the attention mask must fit "
                "their lengths; pad on the right or use --no-gradient-caching"
            )
