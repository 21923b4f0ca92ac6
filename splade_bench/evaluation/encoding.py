"""Texts in, sparse vectors out: texts of a length together, and only a batch of token ids at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from splade_bench.batching.prompts import TextKind
from splade_bench.errors import NotFiniteError
from splade_bench.evaluation.vectors import SparseReps, SparseRows
from splade_bench.model.encoder import SpladeEncoder

# Texts that are sorted by length together.
WINDOW = 2048
_MAX_BATCH_SIZE = 32
_MAX_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Window:
    """Some texts in their order: ids, vectors, and how many active entries are tokens of the text itself."""

    ids: Sequence[str]
    reps: SparseReps
    own_entries: int


def encode_windows(
    encoder: SpladeEncoder,
    texts: Iterable[tuple[str, str]],
    kind: TextKind,
    *,
    max_length: int,
    batch_size: int | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Iterator[Window]:
    """Vectors of ``texts``, which are pairs of an id and a text, in windows of 2048 and in their order.

    Scores are their dot products. So if the model's similarity is the cosine, they have length 1.

    Args:
        encoder: the model, on its device.
        texts: they are read window by window.
        kind: what they are. A model may treat queries and documents differently.
        max_length: tokens after which a text is cut.
        batch_size: texts at a time; None: 32, or fewer if ``max_length`` is above 128.
        on_batch: is called before each batch; what it raises ends the encoding.

    Memory: a batch, and the texts and sparse vectors of a window.

    Raises:
        ConfigError: the model's prompt leaves no room for a text.
        NotFiniteError: a vector has an entry that is NaN or infinite.
    """
    encoder.prompts.require_room(encoder.tokenizer, kind, max_length=max_length)
    # A batch of BERT-base takes less than its training took: gradients and moments are freed by now.
    batch_size = batch_size or max(1, min(_MAX_BATCH_SIZE, _MAX_BATCH_TOKENS // max_length))
    rows = SparseRows(encoder.vocab_size)
    remaining = iter(texts)
    with encoder.evaluating():
        while window := list(itertools.islice(remaining, WINDOW)):
            by_length = sorted(range(len(window)), key=lambda place: len(window[place][1]))
            rows.clear()
            own_entries = 0
            for start in range(0, len(window), batch_size):
                on_batch()
                batch = [window[place][1] for place in by_length[start : start + batch_size]]
                own_entries += _encode_batch(encoder, batch, kind, max_length, rows)
            rows_in_order = sorted(range(len(window)), key=by_length.__getitem__)
            yield Window([text_id for text_id, _ in window], rows.reps().take(rows_in_order), own_entries)


@torch.no_grad()
def _encode_batch(
    encoder: SpladeEncoder, texts: Sequence[str], kind: TextKind, max_length: int, rows: SparseRows
) -> int:
    """Add the vectors of ``texts`` to ``rows``; how many of their active entries are tokens of the texts."""
    batch = encoder.tokenize(texts, max_length=max_length, kind=kind)
    vectors = encoder.query_vectors(batch) if kind == "queries" else encoder(batch)
    if not vectors.isfinite().all():
        raise NotFiniteError(
            f"the vectors of {kind} are not finite (NaN or infinity), so there is nothing to rank: "
            "its training diverged, or its weights are too large; choose another model"
        )
    rows.extend_dense(F.normalize(vectors) if encoder.similarity == "cosine" else vectors)
    # Scattered, the entry of a token that a text repeats counts once.
    own_weights = vectors.gather(1, batch.input_ids)
    return int(torch.zeros_like(vectors).scatter(1, batch.input_ids, own_weights).count_nonzero())
