"""Triton's kernels for the head: maxima with their positions, and the gradients of weight and hidden states.

Only this module imports triton. :mod:`splade_bench.model.triton_head` launches the kernels and says what they compute.
No two programs of a kernel write to the same place, and each adds in a fixed order: results are the same in every run.
Numbers of entries times rows can exceed 2^31, so they are 64-bit.
"""

import triton
import triton.language as tl


@triton.jit
def _in_order(bits):
    """The bits of a float32 as an int32 of the same order. Called with that int32 it returns the bits."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _keys(logits, positions, may_win):
    """Logits [entries, tokens] as int64 keys: the value, then its position; of equal values the first is largest.

    A NaN is larger than every number, so that the loss gets it. Tokens that may not win have the smallest key.
    """
    values = tl.where(logits == logits, _in_order(logits.to(tl.int32, bitcast=True)), 0x7FFFFFFF)
    keys = (values.to(tl.int64) << 32) | (0x7FFFFFFF - positions)[None, :]
    return tl.where(may_win[None, :], keys, -0x8000000000000000)


@triton.jit(do_not_specialize=["texts", "texts_in_group", "token_tiles"])
def maxima(
    hidden,
    weight,
    bias,
    used,
    used_tiles,
    max_logits,
    winners,
    texts,
    texts_in_group,
    token_tiles,
    vocab_size,
    hidden_text_stride,
    hidden_token_stride,
    hidden_stride,
    weight_entry_stride,
    weight_stride,
    bias_stride,
    hidden_size: tl.constexpr,
    precision: tl.constexpr,
    tile_entries: tl.constexpr,
    tile_tokens: tl.constexpr,
    tile_hidden: tl.constexpr,
):
    """Of one text and one tile of entries: the largest logit of each entry, and the token that has it.

    Programs go through a group of texts before the next tile of entries, so hidden states of the group and the tile's
    weights stay in the cache. Entries are the rows of a tile: a thread has many tokens of few entries, and finds most
    of the maximum by itself.
    """
    entry_tiles = tl.cdiv(vocab_size, tile_entries)
    group = tl.program_id(0) // (texts_in_group * entry_tiles)
    in_group = tl.program_id(0) % (texts_in_group * entry_tiles)
    group_size = tl.minimum(texts - group * texts_in_group, texts_in_group)
    text = (group * texts_in_group + in_group % group_size).to(tl.int64)
    entries = in_group // group_size * tile_entries + tl.arange(0, tile_entries)
    in_vocab = entries < vocab_size
    weight_rows = weight + entries.to(tl.int64)[:, None] * weight_entry_stride
    best = tl.full([tile_entries], -0x8000000000000000, tl.int64)
    for tile in range(0, token_tiles):
        if tl.load(used_tiles + text * token_tiles + tile) != 0:
            positions = tile * tile_tokens + tl.arange(0, tile_tokens)
            is_used = tl.load(used + text * token_tiles * tile_tokens + positions) != 0
            tokens = hidden + text * hidden_text_stride + positions[None, :] * hidden_token_stride
            logits = tl.zeros([tile_entries, tile_tokens], tl.float32)
            for start in range(0, hidden_size, tile_hidden):
                columns = start + tl.arange(0, tile_hidden)
                in_row = columns < hidden_size
                left = weight_rows + columns[None, :] * weight_stride
                right = tokens + columns[:, None] * hidden_stride
                left = tl.load(left, mask=in_vocab[:, None] & in_row[None, :], other=0.0)
                right = tl.load(right, mask=in_row[:, None] & is_used[None, :], other=0.0)
                logits = tl.dot(left, right, logits, input_precision=precision)
            best = tl.maximum(best, tl.max(_keys(logits, positions, is_used), axis=1))
    values = _in_order((best >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
    if bias is not None:
        values += tl.load(bias + entries * bias_stride, mask=in_vocab, other=0.0).to(tl.float32)
    results = text * vocab_size + entries
    tl.store(max_logits + results, values, mask=in_vocab)
    tl.store(winners + results, 0x7FFFFFFF - best.to(tl.int32), mask=in_vocab)


@triton.jit(do_not_specialize=["texts"])
def weight_gradient(
    grad_logits,
    winners,
    hidden,
    target,
    texts,
    vocab_size,
    hidden_text_stride,
    hidden_token_stride,
    hidden_stride,
    target_entry_stride,
    target_stride,
    hidden_size: tl.constexpr,
    tile_entries: tl.constexpr,
    tile_hidden: tl.constexpr,
):
    """Add the gradient of a few entries' weights to ``target``, one text after another."""
    entries = tl.program_id(0) * tile_entries + tl.arange(0, tile_entries)
    columns = tl.program_id(1) * tile_hidden + tl.arange(0, tile_hidden)
    in_vocab = entries < vocab_size
    in_row = columns < hidden_size
    sums = tl.zeros([tile_entries, tile_hidden], tl.float32)
    for _ in range(0, texts):
        values = tl.load(grad_logits + entries, mask=in_vocab, other=0.0)
        positions = tl.load(winners + entries, mask=in_vocab, other=0).to(tl.int64)
        tokens = hidden + positions[:, None] * hidden_token_stride + columns[None, :] * hidden_stride
        tokens = tl.load(tokens, mask=(values != 0.0)[:, None] & in_row[None, :], other=0.0)
        sums += values[:, None] * tokens.to(tl.float32)
        grad_logits += vocab_size
        winners += vocab_size
        hidden += hidden_text_stride
    rows = target + entries.to(tl.int64)[:, None] * target_entry_stride + columns[None, :] * target_stride
    mask = in_vocab[:, None] & in_row[None, :]
    tl.store(rows, tl.load(rows, mask=mask, other=0.0).to(tl.float32) + sums, mask=mask)


@triton.jit
def _sum_of_terms(
    order,
    grad_logits,
    weight,
    first,
    last,
    vocab_size,
    weight_entry_stride,
    weight_stride,
    columns,
    in_row,
    tile_terms: tl.constexpr,
    tile_hidden: tl.constexpr,
):
    """Weights of the entries ``order[first:last]``, each times its gradient, summed into [tile_terms, tile_hidden].

    The caller sums over the rows, once: that takes all threads.
    """
    sums = tl.zeros([tile_terms, tile_hidden], tl.float32)
    for start in range(first, last, tile_terms):
        terms = start + tl.arange(0, tile_terms)
        exist = terms < last
        places = tl.load(order + terms, mask=exist, other=0)
        values = tl.load(grad_logits + places, mask=exist, other=0.0)
        entries = (places.to(tl.int32) % vocab_size).to(tl.int64)  # a division of 64 bits takes several times as long
        rows = weight + entries[:, None] * weight_entry_stride + columns[None, :] * weight_stride
        rows = tl.load(rows, mask=exist[:, None] & in_row[None, :], other=0.0)
        sums += values[:, None] * rows.to(tl.float32)
    return sums


@triton.jit(do_not_specialize=["tokens"])
def chunk_sums(
    order,
    grad_logits,
    weight,
    starts,
    chunk_ends,
    chunk_tokens,
    partial,
    tokens,
    vocab_size,
    weight_entry_stride,
    weight_stride,
    hidden_size: tl.constexpr,
    chunk: tl.constexpr,
    tile_terms: tl.constexpr,
    tile_hidden: tl.constexpr,
):
    """Sum one full chunk of a token's terms into its row of ``partial``. Chunks that do not exist have no token."""
    number = tl.program_id(0)
    token = tl.load(chunk_tokens + number)
    columns = tl.program_id(1) * tile_hidden + tl.arange(0, tile_hidden)
    in_row = columns < hidden_size
    if token < tokens:
        start = tl.load(starts + token)
        chunks = (tl.load(starts + token + 1) - start) // chunk
        first = start + (number - tl.load(chunk_ends + token) + chunks) * chunk
        sums = _sum_of_terms(
            order,
            grad_logits,
            weight,
            first,
            first + chunk,
            vocab_size,
            weight_entry_stride,
            weight_stride,
            columns,
            in_row,
            tile_terms,
            tile_hidden,
        )
        tl.store(partial + number.to(tl.int64) * hidden_size + columns, tl.sum(sums, axis=0), mask=in_row)


@triton.jit
def hidden_gradient(
    order,
    grad_logits,
    weight,
    starts,
    chunk_ends,
    partial,
    result,
    vocab_size,
    weight_entry_stride,
    weight_stride,
    hidden_size: tl.constexpr,
    chunk: tl.constexpr,
    tile_terms: tl.constexpr,
    tile_hidden: tl.constexpr,
):
    """The gradient of one token: its chunks' sums in order, and the terms after its last full chunk."""
    token = tl.program_id(0)
    columns = tl.program_id(1) * tile_hidden + tl.arange(0, tile_hidden)
    in_row = columns < hidden_size
    start = tl.load(starts + token)
    last = tl.load(starts + token + 1)
    chunks = (last - start) // chunk
    end = tl.load(chunk_ends + token)
    sums = _sum_of_terms(
        order,
        grad_logits,
        weight,
        start + chunks * chunk,
        last,
        vocab_size,
        weight_entry_stride,
        weight_stride,
        columns,
        in_row,
        tile_terms,
        tile_hidden,
    )
    for first in range(end - chunks, end, tile_terms):
        numbers = first + tl.arange(0, tile_terms)
        rows = partial + numbers.to(tl.int64)[:, None] * hidden_size + columns[None, :]
        sums += tl.load(rows, mask=(numbers < end)[:, None] & in_row[None, :], other=0.0)
    tl.store(result + token.to(tl.int64) * hidden_size + columns, tl.sum(sums, axis=0), mask=in_row)
