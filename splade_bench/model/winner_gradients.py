"""The head's gradients from its winners: three ways to the same sums.

Of each text and vocabulary entry, one token won. Its hidden state gets the entry's gradient times the entry's weight,
and the entry's weight gets it times the hidden state. *Entries* looks only at entries with a gradient, which it must
count. The other two take all of them and never wait for the device: *bags* sorts them by token, *products* puts them
into a matrix that is 0 but for the winners.

Shapes: B texts, L tokens, H hidden, V vocabulary, T entries of a tile.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.device.planned import once_in_plan
from splade_bench.device.reads import nonzero
from splade_bench.device.settings import settings_of
from splade_bench.model.precision import wide_dtype
from splade_bench.model.row_sums import ROWS_AT_A_TIME, add_weighted_rows_, weighted_rows

# Entries that are sorted at a time: their keys, positions and values take 40 bytes each, and sorting as many again.
_ENTRIES_AT_A_TIME = 2**21
# Rows of the weight's gradient that are summed by bags at a time.
_GRADIENT_ROWS_AT_A_TIME = 8192


def fill_masked(hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """``hidden`` with each masked token replaced by its text's first unmasked one, and each token's position [B, L].

    Copies of a token do not change a maximum, so tiles need no mask.
    """
    tokens = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])  # [B, L]
    mask = attention_mask.bool()
    first = mask.to(torch.uint8).argmax(1, keepdim=True)
    source = torch.where(mask, tokens, first)
    return hidden.gather(1, source.unsqueeze(-1).expand_as(hidden)), source


def gradients_by_entries(
    grad_logits: Tensor,
    hidden: Tensor,
    weight: Tensor,
    attention_mask: Tensor,
    winners: Tensor | None,
    compute_dtype: torch.dtype,
    planned_active_share: float,
    *,
    target: Tensor | None,
    needs_weight: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of hidden states [B * L, H] and of the weight, which is added to ``target`` if there is one."""
    text, entry, counts = nonzero(grad_logits, planned_share=planned_active_share)  # [N], sorted by text
    values = grad_logits[text, entry]
    if winners is None:
        position = _find_winners(hidden, weight, attention_mask, entry, counts, compute_dtype)
    else:
        position = winners[text, entry].long()
    token = text * hidden.shape[1] + position
    flat_hidden = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)  # [B * L, H]
    grad_hidden = weighted_rows(weight, entry, values, into=token, rows=len(flat_hidden))
    if target is not None:
        add_weighted_rows_(target, flat_hidden, token, values, into=entry)
    elif needs_weight:
        return grad_hidden, weighted_rows(flat_hidden, token, values, into=entry, rows=len(weight))
    return grad_hidden, None


def gradients_without_waiting(
    grad_logits: Tensor,
    hidden: Tensor,
    weight: Tensor,
    winners: Tensor | None,
    target: Tensor | None,
) -> Tensor:
    """The gradient of hidden states [B * L, H]; adds that of the weight to ``target``, unless it is None."""
    assert winners is not None, "an accelerator keeps them in the forward pass"
    if settings_of(hidden.device).head_backward == "products":
        return gradients_by_products(grad_logits, winners, hidden.to(weight.dtype), weight, target)
    if target is not None:
        add_weight_gradient_by_bags_(target, grad_logits, winners, hidden.to(weight.dtype))
    return hidden_gradient_by_bags(grad_logits, winners, weight, length=hidden.shape[1])


def hidden_gradient_by_bags(grad_logits: Tensor, winners: Tensor, weight: Tensor, *, length: int) -> Tensor:
    """The gradient of hidden states [B * L, H] from that of all maxima [B, V]; the order of each sum is fixed.

    Args:
        grad_logits: [B, V], 0 where an entry is not active.
        winners: int32 [B, V], each a token of its text.
        weight: [V, H]. Sums are in its type, at least in float32.
        length: tokens of a text, with padding.

    Memory: the result, and up to 160 MiB for indices.
    """
    texts, entries = grad_logits.shape
    result = weight.new_empty(texts * length, weight.shape[1])
    at_a_time = max(1, _ENTRIES_AT_A_TIME // entries)
    for start in once_in_plan(range(0, texts, at_a_time), key=lambda start: min(at_a_time, texts - start)):
        block = slice(start, start + at_a_time)
        tokens = slice(start * length, min(start + at_a_time, texts) * length)
        result[tokens] = _bag_sums(grad_logits[block], winners[block], weight, length=length)
    return result


def _bag_sums(grad_logits: Tensor, winners: Tensor, weight: Tensor, *, length: int) -> Tensor:
    """The gradient of the hidden states of a block of texts, [b * L, H]."""
    entries = grad_logits.shape[1]
    # One token wins most entries that are not active. They add nothing, so they are spread over all tokens: a bag is
    # summed one term after another.
    spread = torch.arange(entries, dtype=winners.dtype, device=winners.device) % length
    tokens = _tokens(torch.where(grad_logits != 0, winners, spread), length)  # [b, V]
    ordered, order = torch.sort(tokens.reshape(-1), stable=True)
    rows = torch.arange(len(tokens) * length, dtype=ordered.dtype, device=ordered.device)
    return F.embedding_bag(
        order % entries,
        weight,
        torch.searchsorted(ordered, rows),
        mode="sum",
        per_sample_weights=grad_logits.reshape(-1)[order].to(weight.dtype),
    )


def add_weight_gradient_by_bags_(target: Tensor, grad_logits: Tensor, winners: Tensor, hidden: Tensor) -> None:
    """Add the gradient of the weight to ``target`` [V, H]: each row has one term of each text.

    Args:
        target: the weight's gradient so far.
        grad_logits: [B, V].
        winners: int32 [B, V].
        hidden: [B, L, H], in the type of the sums.

    Memory: 8192 rows of ``target``, and their indices.
    """
    flat_hidden = hidden.reshape(-1, hidden.shape[-1])
    tokens = _tokens(winners, hidden.shape[1])
    for start in once_in_plan(range(0, len(target), _GRADIENT_ROWS_AT_A_TIME)):
        rows = slice(start, start + _GRADIENT_ROWS_AT_A_TIME)
        target[rows] += F.embedding_bag(
            tokens[:, rows].t().contiguous(),  # [T, B]: a bag of one term of each text
            flat_hidden,
            mode="sum",
            per_sample_weights=grad_logits[:, rows].t().contiguous().to(flat_hidden.dtype),
        )


def gradients_by_products(
    grad_logits: Tensor, winners: Tensor, hidden: Tensor, weight: Tensor, target: Tensor | None
) -> Tensor:
    """The gradient of hidden states [B * L, H]; adds that of the weight to ``target`` [V, H], unless it is None.

    Products are in the type of ``hidden``, sums over tiles at least in float32.

    Memory: a tile of the head's size for the matrix, its products, and the result.
    """
    texts, length, hidden_size = hidden.shape
    flat_hidden = hidden.reshape(-1, hidden_size)
    result = torch.zeros_like(flat_hidden, dtype=wide_dtype(hidden.dtype))
    texts_at_a_time, most = settings_of(hidden.device).tile_shape(texts, length, hidden.element_size())
    entries_at_a_time = max(1, most)
    for start in once_in_plan(range(0, len(weight), entries_at_a_time)):
        entries = slice(start, start + entries_at_a_time)
        rows = weight[entries].to(hidden.dtype)  # [T, H]
        for text in once_in_plan(range(0, texts, texts_at_a_time)):
            chosen = slice(text, text + texts_at_a_time)
            tokens = slice(text * length, (text + texts_at_a_time) * length)
            tile = _winners_only(grad_logits[chosen, entries].to(hidden.dtype), winners[chosen, entries], length)
            result[tokens] += tile @ rows
            if target is not None:
                target[entries] += (tile.t() @ flat_hidden[tokens]).to(target.dtype)
            del tile  # before the next one is made
        del rows
    return result


def _winners_only(grad_logits: Tensor, winners: Tensor, length: int) -> Tensor:
    """The gradient of all logits of a tile, 0 but for the winners: [b * L, T] from two [b, T]."""
    tile = grad_logits.new_zeros(len(winners), length, winners.shape[1])
    tile.scatter_(1, winners.long().unsqueeze(1), grad_logits.unsqueeze(1))
    return tile.view(-1, winners.shape[1])


def _tokens(winners: Tensor, length: int) -> Tensor:
    """The winners [B, V] counted over all texts of the block, in int32: there are fewer than 2^31 tokens."""
    first = torch.arange(len(winners), dtype=winners.dtype, device=winners.device) * length
    return winners + first.unsqueeze(1)


def _find_winners(
    hidden: Tensor, weight: Tensor, attention_mask: Tensor, entry: Tensor, counts: list[int], compute_dtype: torch.dtype
) -> Tensor:
    """Position in its text of the token with the largest logit, for N entries, ``counts`` of each text: [N].

    If few entries have a gradient, this costs less than the forward pass's max with positions over all entries.
    """
    # At least float32, even if the maximum was narrower: rounded logits would tie more often.
    search_dtype = wide_dtype(compute_dtype)
    filled, source = fill_masked(hidden.to(compute_dtype).to(search_dtype), attention_mask)
    winners = torch.empty_like(entry)
    start = 0
    with torch.autocast(hidden.device.type, enabled=False):
        for row, count in once_in_plan(enumerate(counts), key=lambda pair: pair[1]):
            for chunk in once_in_plan(entry[start : start + count].split(ROWS_AT_A_TIME)):
                position = (weight[chunk].to(compute_dtype).to(search_dtype) @ filled[row].t()).argmax(1)
                winners[start : start + len(chunk)] = source[row, position]
                start += len(chunk)
    return winners
