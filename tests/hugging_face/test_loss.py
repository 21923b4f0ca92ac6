"""The loss for sentence-transformers' trainer has the values and the gradients of its SpladeLoss, however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra [sentence-transformers]")

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.losses.gradcache import uses_gradient_cache
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.sparse_encoder.losses import (
    CachedSpladeLoss,
    SparseDistillKLDivLoss,
    SparseMarginMSELoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from torch import Tensor, nn

from splade_bench.errors import ConfigError
from splade_bench.hugging_face.loss import LeanSpladeLoss
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model.checkpointing import checkpointing

MakeModel = Callable[..., Any]
Gradients = dict[str, Tensor]

QUERIES = ["who opens the parser", "who closes the window", "copies", "who splits", "the archive is old"]
POSITIVES = [
    "this function opens the parser with a name and a size",
    "the window",
    "this function copies the buffer",
    "splits the socket with a name",
    "the archive",
]
NEGATIVES = ["the thread is old", "this function closes the matrix with a name and a size with a name", "old", "a", "b"]
COLUMNS = (QUERIES, POSITIVES, NEGATIVES)
WEIGHTS = {"document_regularizer_weight": 3e-2, "query_regularizer_weight": 5e-2}
CUTS = [
    MemoryConfig(mini_batch_size=1),
    MemoryConfig(mini_batch_size=4),
    MemoryConfig(mini_batch_tokens=16),
    MemoryConfig(mini_batch_tokens=16, activation_memory="all"),
    MemoryConfig(mini_batch_tokens=16, activation_memory="64KiB"),
    MemoryConfig(mini_batch_size=2, in_place_gradients=False, selective_recomputation=False),
    MemoryConfig(mini_batch_size=2, activation_checkpointing=True),
    MEMORY_MODES["memory-efficient"],
    MEMORY_MODES["minimal-memory"],
]


def features(model: Any, columns: Any = COLUMNS) -> list[Any]:
    return [model.preprocess([*texts]) for texts in columns]


def gradients_of(model: Any) -> Gradients:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def terms_and_gradients(
    loss: Any, columns: Any = COLUMNS, labels: Tensor | None = None
) -> tuple[dict[str, float], Gradients]:
    loss.model.zero_grad()
    terms = loss(features(loss.model, columns), labels)
    sum(terms.values()).backward()
    return {name: term.item() for name, term in terms.items()}, gradients_of(loss.model)


def ranking(model: Any) -> Any:
    return SparseMultipleNegativesRankingLoss(model, scale=0.5)


def assert_equal_losses(
    ours: Any, theirs: Any, columns: Any = COLUMNS, labels: Tensor | None = None, *, term_error: float = 1e-9
) -> None:
    """In float64 and without dropout: the same terms, and the same gradients."""
    terms, gradients = terms_and_gradients(ours, columns, labels)
    expected_terms, expected = terms_and_gradients(theirs, columns, labels)

    assert terms == pytest.approx(expected_terms, rel=term_error)
    assert [*terms] == [*expected_terms]
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-9 * largest, msg=name)


@pytest.mark.parametrize("memory", CUTS)
def test_terms_and_gradients_are_those_of_the_plain_loss(make_model: MakeModel, memory: MemoryConfig) -> None:
    ours, theirs = make_model().double(), make_model().double()

    assert_equal_losses(
        LeanSpladeLoss(ours, ranking(ours), **WEIGHTS, memory=memory), SpladeLoss(theirs, ranking(theirs), **WEIGHTS)
    )


@pytest.mark.parametrize("count", [2, 3])
def test_they_are_those_of_the_cached_loss(make_model: MakeModel, count: int) -> None:
    ours, theirs = make_model().double(), make_model().double()

    assert_equal_losses(
        LeanSpladeLoss(ours, ranking(ours), **WEIGHTS),
        CachedSpladeLoss(theirs, ranking(theirs), **WEIGHTS, mini_batch_size=2),
        COLUMNS[:count],
        term_error=1e-6,  # it reports its terms in float32
    )


@pytest.mark.parametrize(
    "options",
    [
        {"document_regularizer_weight": 3e-2},
        {**WEIGHTS, "document_regularizer_threshold": 5, "query_regularizer_threshold": 3},
        {"document_regularizer_weight": 3e-2, "use_document_regularizer_only": True},
    ],
)
def test_each_option_of_the_plain_loss_means_the_same(make_model: MakeModel, options: dict[str, Any]) -> None:
    ours, theirs = make_model().double(), make_model().double()

    assert_equal_losses(LeanSpladeLoss(ours, ranking(ours), **options), SpladeLoss(theirs, ranking(theirs), **options))


@pytest.mark.parametrize("base_loss", [SparseMarginMSELoss, SparseDistillKLDivLoss])
def test_a_teachers_scores_are_passed_on(make_model: MakeModel, base_loss: Any) -> None:
    ours, theirs = make_model().double(), make_model().double()
    labels = torch.arange(10, dtype=torch.float64).view(5, 2)
    labels = labels[:, 0] if base_loss is SparseMarginMSELoss else labels

    assert_equal_losses(
        LeanSpladeLoss(ours, base_loss(ours), **WEIGHTS),
        SpladeLoss(theirs, base_loss(theirs), **WEIGHTS),
        labels=labels,
    )


def test_opensearchs_activation_has_its_gradient(make_model: MakeModel) -> None:
    models = [make_model().double() for _ in range(2)]
    for model in models:
        model[1] = SpladePooling("max", activation_function="log1p_relu")
    ours, theirs = models

    assert_equal_losses(LeanSpladeLoss(ours, ranking(ours), **WEIGHTS), SpladeLoss(theirs, ranking(theirs), **WEIGHTS))


def test_one_term_carries_the_gradient_of_all(make_model: MakeModel) -> None:
    model = make_model()

    terms = LeanSpladeLoss(model, ranking(model), **WEIGHTS)(features(model))

    assert [term.requires_grad for term in terms.values()] == [True, False, False]
    torch.stack([*terms.values()]).sum().backward()
    assert all(gradient.any() for name, gradient in gradients_of(model).items() if "key.bias" not in name)


def test_the_gradient_is_scaled_as_the_trainer_scales_the_loss(make_model: MakeModel) -> None:
    model = make_model().double()
    loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS)
    _, expected = terms_and_gradients(loss)
    model.zero_grad()

    for _ in range(2):
        (sum(loss(features(model)).values()) * 8 / 3).backward()

    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, expected[name] * 16 / 3, rtol=1e-9, atol=1e-12)


def test_each_of_two_batches_keeps_its_own_gradients_until_backward(make_model: MakeModel) -> None:
    model = make_model().double()
    loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS, memory=MemoryConfig(mini_batch_size=2))
    halves = [[texts[:3] for texts in COLUMNS], [texts[3:] for texts in COLUMNS]]
    (_, first), (_, second) = (terms_and_gradients(loss, half) for half in halves)
    model.zero_grad()

    sum(sum(loss(features(model, half)).values()) for half in halves).backward()

    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, first[name] + second[name], rtol=1e-9, atol=1e-12)


def test_a_second_backward_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    total = sum(LeanSpladeLoss(model, ranking(model), **WEIGHTS)(features(model)).values())
    total.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match="compute the loss again"):
        total.backward()


def test_without_gradients_the_terms_are_the_same(make_model: MakeModel) -> None:
    ours, theirs = make_model().double().eval(), make_model().double().eval()
    loss = LeanSpladeLoss(ours, ranking(ours), **WEIGHTS)

    with torch.no_grad():
        terms = loss(features(ours))
        expected = SpladeLoss(theirs, ranking(theirs), **WEIGHTS)(features(theirs))

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-9
    )
    assert not any(term.requires_grad for term in terms.values())
    assert not gradients_of(ours)


def test_active_dims_are_those_of_the_batch(make_model: MakeModel) -> None:
    model = make_model()
    loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS)
    assert loss.query_active_dims is None

    loss(features(model))

    with torch.no_grad():
        queries, positives = (model(one)["sentence_embedding"] for one in features(model)[:2])
    assert loss.query_active_dims == pytest.approx(torch.count_nonzero(queries).item() / 5)
    assert loss.document_active_dims == pytest.approx(torch.count_nonzero(positives).item() / 5)


@pytest.mark.parametrize("frozen", [True, False])
def test_queries_without_a_transformer_are_trained_unless_they_are_frozen(make_model: MakeModel, frozen: bool) -> None:
    def inference_free() -> Any:
        transformer, pooling = make_model()
        queries = SparseStaticEmbedding(transformer.tokenizer, torch.ones(512), frozen=frozen)
        router = Router.for_query_document([queries], [transformer, pooling])
        return SparseEncoder(modules=[router], device="cpu").double().train()

    def gradients(model: Any, loss: Any) -> Gradients:
        tasks = ("query", "document", "document")
        columns = [model.preprocess(texts, task=task) for texts, task in zip(COLUMNS, tasks, strict=True)]
        sum(loss(columns).values()).backward()
        return gradients_of(model)

    ours, theirs = inference_free(), inference_free()
    expected = gradients(theirs, SpladeLoss(theirs, ranking(theirs), 3e-2))
    actual = gradients(ours, LeanSpladeLoss(ours, ranking(ours), 3e-2, memory=MemoryConfig(mini_batch_size=2)))

    assert actual.keys() == expected.keys()
    assert any("sub_modules.query." in name for name in actual) == (not frozen)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("activation_memory", ["none", "all"])
def test_the_second_pass_draws_the_dropout_of_the_first(make_model: MakeModel, activation_memory: str) -> None:
    """With all graphs kept there is one pass only. The mini-batches are the same: texts of one length, one by one."""
    model = make_model(dropout=0.3)
    memory = MemoryConfig(mini_batch_size=1, activation_memory=activation_memory)
    texts = [["who opens the parser"] * 3, ["who closes the window"] * 3]
    torch.manual_seed(5)
    terms, gradients = terms_and_gradients(LeanSpladeLoss(model, ranking(model), **WEIGHTS, memory=memory), texts)
    torch.manual_seed(5)
    reference = replace(memory, activation_memory="all", in_place_gradients=False)
    expected_terms, expected = terms_and_gradients(
        LeanSpladeLoss(model, ranking(model), **WEIGHTS, memory=reference), texts
    )

    assert terms == pytest.approx(expected_terms)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_autocast_holds_for_the_second_pass_too(make_model: MakeModel) -> None:
    """``backward`` is called outside of the block, as trainers do."""
    model = make_model()
    results = []
    for activation_memory in ("none", "all"):
        memory = MemoryConfig(mini_batch_size=1, activation_memory=activation_memory)
        loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS, memory=memory)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            total = sum(loss(features(model)).values())
        total.backward()
        results.append(gradients_of(model))

    once, twice = results[1], results[0]
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    _, exact = terms_and_gradients(LeanSpladeLoss(model, ranking(model), **WEIGHTS))
    assert any(not torch.equal(exact[name], gradient) for name, gradient in once.items())


def test_activation_checkpointing_that_the_trainer_switched_on_stays_on(make_model: MakeModel) -> None:
    ours, theirs = make_model().double(), make_model().double()
    network = ours.transformers_model
    checkpointing(network, "{}_checkpointing_enable")({"use_reentrant": False})

    assert_equal_losses(LeanSpladeLoss(ours, ranking(ours), **WEIGHTS), SpladeLoss(theirs, ranking(theirs), **WEIGHTS))
    assert checkpointing(network, "is_{}_checkpointing")


def test_padding_on_the_left_is_masked(make_model: MakeModel) -> None:
    ours, theirs = make_model().double(), make_model().double()
    for model in (ours, theirs):
        model.tokenizer.padding_side = "left"

    assert_equal_losses(LeanSpladeLoss(ours, ranking(ours), **WEIGHTS), SpladeLoss(theirs, ranking(theirs), **WEIGHTS))


def test_frozen_weights_get_no_gradient(make_model: MakeModel) -> None:
    model = make_model()
    frozen = model.transformers_model.get_input_embeddings().weight.requires_grad_(False)
    loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS)

    _, gradients = terms_and_gradients(loss)

    assert frozen.grad is None
    assert gradients


def test_sentence_transformers_knows_it_as_a_splade_loss_in_mini_batches(make_model: MakeModel) -> None:
    model = make_model()
    loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS)
    scheduler = SpladeRegularizerWeightSchedulerCallback(loss)

    assert uses_gradient_cache(loss)
    assert scheduler.max_document_regularizer_weight == 3e-2
    assert loss.get_config_dict()["activation_memory"] == "none"


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_model_on_several_devices_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    loss = LeanSpladeLoss(model, ranking(model), **WEIGHTS)
    loss.model = Wrapper(model)

    with pytest.raises(ConfigError, match=r"one device .* Wrapper .* use lean\(model\) with CachedSpladeLoss"):
        loss(features(model))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cu_seq_lens_q": torch.tensor([0, 3])}, "unpad_inputs = False"),
        ({"token_type_ids": torch.ones(5, 4)}, "pairs of texts"),
    ],
)
def test_a_column_that_cannot_be_cut_is_refused(make_model: MakeModel, change: dict[str, Any], reason: str) -> None:
    model = make_model()
    columns = features(model)
    columns[0] = {**columns[0], **change}

    with pytest.raises(ConfigError, match=reason):
        LeanSpladeLoss(model, ranking(model), **WEIGHTS)(columns)


def test_a_ranking_loss_with_parameters_of_its_own_is_refused(make_model: MakeModel) -> None:
    model = make_model()

    class Scaled(SparseMultipleNegativesRankingLoss):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(model)
            self.log_scale = torch.nn.Parameter(torch.zeros(()))

    with pytest.raises(ConfigError, match="Scaled has parameters of its own"):
        LeanSpladeLoss(model, Scaled(), document_regularizer_weight=0.1)
