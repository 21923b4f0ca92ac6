"""A score is a dot product or a cosine: the model says which, and what trains, saves and ranks keeps to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from equality import make_config

from splade_bench.batching.prompts import Prompts, TextKind
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError
from splade_bench.evaluation.encoding import encode_windows
from splade_bench.model import SpladeEncoder
from splade_bench.model.saved_settings import SETTINGS_NAME, save_settings, saved_prompts, saved_similarity
from splade_bench.training import Trainer
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.ranking import contrastive_loss, cosines
from splade_bench.training.validation_loss import validation_loss

TEXTS = {"first": "opens the parser", "second": "reads a file", "third": "opens a file"}


def vectors_of(encoder: SpladeEncoder, kind: TextKind) -> torch.Tensor:
    """What an evaluation ranks, [3, V]."""
    (window,) = encode_windows(encoder, TEXTS.items(), kind, max_length=16)
    return window.reps.dense(0, len(TEXTS))


def test_cosines_are_those_of_the_vectors_and_of_a_zero_vector_they_are_0() -> None:
    vectors = torch.rand(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors[1] = 0
    queries, documents = vectors[:2], vectors[2:]

    found = cosines(queries @ documents.T, vectors.square().sum(1))

    torch.testing.assert_close(found, F.cosine_similarity(queries[:, None], documents[None], dim=2))
    assert found[1].tolist() == [0, 0, 0]


def test_a_zero_vector_leaves_the_gradient_finite() -> None:
    reps = torch.rand(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reps[[0, 4]] = 0

    terms, gradient = SpladeLoss(TrainConfig(similarity="cosine")).with_gradient(reps, queries=3)

    assert terms.total.isfinite()
    assert gradient.isfinite().all()


def test_the_loss_of_cosines_has_the_scale_of_sentence_transformers_unless_a_temperature_is_given() -> None:
    reps = torch.rand(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scores = F.normalize(reps[:3]) @ F.normalize(reps[3:]).T

    by_default = SpladeLoss(TrainConfig(similarity="cosine"))(reps[:3], reps[3:]).ranking
    given = SpladeLoss(TrainConfig(similarity="cosine", temperature=1.0))(reps[:3], reps[3:]).ranking

    torch.testing.assert_close(by_default, contrastive_loss(20 * scores))
    torch.testing.assert_close(given, contrastive_loss(scores))


@pytest.mark.parametrize("static", [False, True], ids=["model", "static queries"])
def test_what_is_ranked_by_cosine_has_length_1(encoder: SpladeEncoder, static: bool) -> None:
    if static:
        encoder.use_static_queries()
    raw = {kind: vectors_of(encoder, kind) for kind in ("queries", "documents")}
    encoder.similarity = "cosine"

    for kind in ("queries", "documents"):
        assert not torch.allclose(raw[kind].norm(dim=1), torch.ones(3))
        torch.testing.assert_close(vectors_of(encoder, kind), F.normalize(raw[kind]))


def test_the_similarity_stays_with_the_model_until_another_is_given(
    encoder: SpladeEncoder, triples: Sequence[Triple], tmp_path: Path
) -> None:
    Trainer(encoder, triples, make_config(similarity="cosine"))
    encoder.save_pretrained(tmp_path / "model")

    again = SpladeEncoder.from_pretrained(str(tmp_path / "model"))

    assert again.similarity == "cosine"
    assert Trainer(again, triples, make_config()).loss.uses_lengths
    assert not Trainer(again, triples, make_config(similarity="dot")).loss.uses_lengths
    again.save_pretrained(tmp_path / "dot")
    assert SpladeEncoder.from_pretrained(str(tmp_path / "dot")).similarity == "dot"


def test_the_validation_loss_is_that_of_the_models_similarity(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    held_out = [*triples] * (32 // len(triples) + 1)
    of_dot = validation_loss(encoder, held_out, make_config())
    encoder.similarity = "cosine"

    of_cosine = validation_loss(encoder, held_out, make_config())

    assert of_cosine != of_dot
    assert of_cosine == validation_loss(encoder, held_out, make_config(similarity="cosine"))


@pytest.mark.parametrize("name", ["dot", "cosine", None])
def test_the_similarity_of_a_sparse_encoder_is_read(name: str | None, tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).write_text(json.dumps({"model_type": "SparseEncoder", "similarity_fn_name": name}))

    assert saved_similarity(str(tmp_path)) == (name or "dot")


def test_a_similarity_that_is_not_computed_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_NAME).write_text(
        json.dumps({"model_type": "SparseEncoder", "similarity_fn_name": "euclidean"})
    )

    with pytest.raises(ConfigError, match=r"similarity_fn_name is euclidean, but only dot and cosine"):
        saved_similarity(str(tmp_path))


@pytest.mark.parametrize("name", ["cosine", "euclidean"])
def test_the_similarity_of_a_dense_encoder_is_not_that_of_its_sparse_vectors(name: str, tmp_path: Path) -> None:
    content = {"model_type": "SentenceTransformer", "similarity_fn_name": name, "prompts": {"query": "frage: "}}
    (tmp_path / SETTINGS_NAME).write_text(json.dumps(content))

    assert saved_similarity(str(tmp_path)) == "dot"
    assert saved_prompts(str(tmp_path)) == Prompts("frage: ")


def test_the_settings_of_a_run_say_which_scores_it_had(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    by_default = Trainer(encoder, triples, make_config()).config
    encoder.similarity = "cosine"
    as_the_model_has_it = Trainer(encoder, triples, make_config()).config

    assert (by_default.similarity, by_default.temperature) == ("dot", 1.0)
    assert (as_the_model_has_it.similarity, as_the_model_has_it.temperature) == ("cosine", 0.05)


def test_prompts_and_similarity_are_in_one_file(tmp_path: Path) -> None:
    save_settings(tmp_path, Prompts("frage: "), "cosine")

    content = json.loads((tmp_path / SETTINGS_NAME).read_text())

    assert content["similarity_fn_name"] == "cosine"
    assert content["prompts"]["query"] == "frage: "
