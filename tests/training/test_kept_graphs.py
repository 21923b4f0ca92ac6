"""Which mini-batches keep their graphs, and that this changes neither gradient nor limit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from architectures import ARCHITECTURES, make_model, wrap
from equality import gradients_of, make_config, text_batches
from tokenizers import Tokenizer

from splade_bench.batching.batches import TripleBatch
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.training.faults import half_mini_batch
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.kept_graphs import SavedStorages
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext
from splade_bench.training.trainer import Trainer

SMALL = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=2)
LIMITS = ["none", "150KiB", "400KiB", "all"]


def make_encoder(tokenizer: Tokenizer, memory: MemoryConfig, architecture: str = "bert") -> SpladeEncoder:
    encoder = SpladeEncoder(make_model(architecture, dropout=0.2, vocab_size=512), wrap(tokenizer)).train()
    encoder.configure(memory)
    return encoder


def make_batch(encoder: SpladeEncoder, triples: Sequence[Triple]) -> TripleBatch:
    return next(text_batches(triples, encoder, make_config(batch_size=4)))


class CountedEncodings:
    """How often an encoder goes forward with a graph, and how often without."""

    def __init__(self, encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_graph = self.without = 0
        forward, pool = encoder.forward, encoder.pool

        def counted_forward(*args: object, **kwargs: object) -> object:
            self.with_graph += 1
            return forward(*args, **kwargs)  # type: ignore[arg-type]

        def counted_pool(*args: object, **kwargs: object) -> object:
            self.without += 1
            return pool(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(encoder, "forward", counted_forward)
        monkeypatch.setattr(encoder, "pool", counted_pool)


def step(encoder: SpladeEncoder, batch: TripleBatch) -> None:
    torch.manual_seed(3)
    gradcache_step(encoder, batch, SpladeLoss(make_config()), StepContext())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_is_the_same_bitwise_however_many_graphs_are_kept(
    architecture: str, tokenizer: Tokenizer, triples: Sequence[Triple], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients, computed_twice = [], []
    for limit in LIMITS:
        encoder = make_encoder(tokenizer, replace(SMALL, activation_memory=limit), architecture)
        counted = CountedEncodings(encoder, monkeypatch)
        step(encoder, make_batch(encoder, triples))
        gradients.append(gradients_of(encoder))
        computed_twice.append(counted.without)

    assert computed_twice[0] == 5  # of six mini-batches
    assert computed_twice[-1] == 0
    assert computed_twice == sorted(computed_twice, reverse=True)
    for other in gradients[1:]:
        assert all(torch.equal(gradient, other[name]) for name, gradient in gradients[0].items())


def test_more_memory_keeps_more_graphs(
    tokenizer: Tokenizer, triples: Sequence[Triple], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for limit in ("100KiB", "200KiB", "300KiB", "400KiB", "500KiB"):
        encoder = make_encoder(tokenizer, replace(SMALL, activation_memory=limit))
        counted = CountedEncodings(encoder, monkeypatch)
        step(encoder, make_batch(encoder, triples))
        seen.append(counted.without)

    assert len(set(seen)) >= 3, seen
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("limit_kib", [150, 200, 300, 400])
def test_the_kept_graphs_take_no_more_than_the_limit(
    limit_kib: int, tokenizer: Tokenizer, triples: Sequence[Triple], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(tokenizer, replace(SMALL, activation_memory=f"{limit_kib}KiB"))
    kept_bytes: list[int] = []
    forward = encoder.forward

    def measured(*args: object, **kwargs: object) -> object:
        saved = SavedStorages(encoder.parameters())
        with saved:
            result = forward(*args, **kwargs)  # type: ignore[arg-type]
        if "pooled" not in kwargs:  # a first pass
            kept_bytes.append(sum(saved.sizes_bytes))
        return result

    batch = make_batch(encoder, triples)
    # The step's own count is inside this one's, where hooks do not see each other.
    monkeypatch.setattr("splade_bench.training.gradcache.SavedStorages", lambda parameters: _Known(encoder, batch))
    monkeypatch.setattr(encoder, "forward", measured)
    step(encoder, batch)

    assert 0 < sum(kept_bytes) <= limit_kib * 2**10


class _Known:
    """Counts of the largest mini-batch that were taken before."""

    def __init__(self, encoder: SpladeEncoder, batch: TripleBatch) -> None:
        from splade_bench.batching.mini_batches import cut_into_mini_batches

        first = cut_into_mini_batches(batch.groups, max_tokens=10_000, max_texts=2)[0]
        saved = SavedStorages(encoder.parameters())
        with torch.random.fork_rng(), saved:
            SpladeEncoder.forward(encoder, first.texts)
        self.sizes_bytes = saved.sizes_bytes

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, vectors: torch.Tensor) -> None:
        assert len(vectors) == 2


def test_counting_keeps_nothing_alive() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    saved = SavedStorages([weight])
    with saved:
        middle = (weight * 2).exp()
        result = middle.sin().sum()
    storage = middle.untyped_storage()
    freed: list[bool] = []
    weakref.finalize(storage, freed.append, True)
    assert sum(saved.sizes_bytes) == middle.nbytes  # exp keeps its result, and sin the same; the weight does not count
    del middle, result, storage  # without a backward, as in a step that failed
    gc.collect()

    assert freed == [True]


def test_a_limit_below_one_mini_batch_ends_the_first_step(tokenizer: Tokenizer, triples: Sequence[Triple]) -> None:
    memory = replace(SMALL, activation_memory="10KiB")
    encoder = make_encoder(tokenizer, memory)
    trainer = Trainer(encoder, triples, make_config(batch_size=4, memory=memory, max_steps=1))

    with pytest.raises(ConfigError, match=r"^--activation-memory 10KiB: a mini-batch of \d+ tokens keeps "):
        trainer.train()


def test_without_memory_for_it_a_run_goes_on_with_one_graph(tokenizer: Tokenizer, triples: Sequence[Triple]) -> None:
    memory = replace(SMALL, activation_memory="all")
    trainer = Trainer(make_encoder(tokenizer, memory), triples, make_config(batch_size=4, memory=memory, max_steps=1))
    trainer.limit_mini_batches(64)

    assert trainer.encoder.memory.activation_memory == "none"


def test_the_size_of_a_mini_batch_in_texts_limits_what_one_can_take(
    tokenizer: Tokenizer, triples: Sequence[Triple]
) -> None:
    memory = replace(SMALL, mini_batch_size=1, activation_memory="400KiB")
    encoder = make_encoder(tokenizer, memory)
    trainer = Trainer(encoder, triples, make_config(batch_size=4, memory=memory, max_steps=1))

    assert trainer.train().global_step == 1


def test_the_vectors_of_an_eager_head_count_too(tokenizer: Tokenizer, triples: Sequence[Triple]) -> None:
    encoder = make_encoder(tokenizer, replace(SMALL, head="eager"))
    saved = SavedStorages(encoder.parameters())
    with saved:
        vectors = encoder(make_batch(encoder, triples).queries)
    before = sum(saved.sizes_bytes)
    saved.add(vectors)

    assert sum(saved.sizes_bytes) == before + vectors.nbytes


def test_without_memory_a_step_first_drops_the_other_graphs_and_then_halves(
    tokenizer: Tokenizer, triples: Sequence[Triple]
) -> None:
    memory = replace(SMALL, activation_memory="all", mini_batch_tokens=64)
    encoder = make_encoder(tokenizer, memory)
    batch = make_batch(encoder, triples)

    assert half_mini_batch(encoder, [batch]) == 32, "four texts of eight tokens"
    encoder.configure(replace(memory, activation_memory="none"))
    assert half_mini_batch(encoder, [batch]) == 16
