"""A lean SparseEncoder gives the vectors of the ordinary one, without its logits, and saves the ordinary one."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra [sentence-transformers]")

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from splade_bench.errors import ConfigError
from splade_bench.hugging_face.streaming import HiddenStates, heads_of, lean

MakeModel = Callable[..., Any]
TEXTS = ["who opens the parser", "the window closes", "this function copies the archive with a name and a size", ""]
ORDINARY = """
import sys
sys.modules["splade_bench"] = None
import torch
from sentence_transformers import SparseEncoder
model = SparseEncoder(sys.argv[1], device="cpu")
torch.save(model.encode({texts!r}, convert_to_sparse_tensor=False), sys.argv[2])
print([type(module).__name__ for module in model])
"""


def vectors(model: Any) -> Tensor:
    encoded: Tensor = model.encode(TEXTS, convert_to_sparse_tensor=False, show_progress_bar=False)
    return encoded


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that an operator makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_vectors_stay_and_the_logits_go(make_model: MakeModel) -> None:
    model = make_model()
    expected = vectors(model)
    assert int(torch.count_nonzero(expected)) > 10

    assert lean(model) is model

    torch.testing.assert_close(vectors(model), expected, rtol=1e-5, atol=1e-5)
    features = model.preprocess(["the parser opens " * 4] * 200)  # more than a tile of the head
    texts, length = features["input_ids"].shape
    with torch.no_grad(), LargestTensor() as whole:
        make_model()(dict(features))
    with torch.no_grad(), LargestTensor() as streamed:
        model(dict(features))
    assert whole.elements >= texts * length * 512
    assert streamed.elements < texts * length * 512


def test_a_lean_model_is_left_as_it_is(make_model: MakeModel) -> None:
    model = lean(make_model())
    modules = [*model]

    assert [*lean(model)] == modules


def test_weights_keep_their_names_and_are_tied(make_model: MakeModel) -> None:
    model = make_model()
    names = [name for name, _ in model.named_parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    lean(model)

    assert [name for name, _ in model.named_parameters()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    network = model.transformers_model
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    (head,) = heads_of(model)
    assert head.decoder.weight is network.get_input_embeddings().weight


def test_what_is_saved_is_an_ordinary_model(make_model: MakeModel, tmp_path: Path) -> None:
    make_model().save_pretrained(str(tmp_path / "ordinary"))
    model = lean(make_model())

    model.save_pretrained(str(tmp_path / "lean"))

    for name in ("modules.json", "1_SpladePooling/config.json", "sentence_bert_config.json", "config.json"):
        ordinary, saved = (json.loads((tmp_path / kind / name).read_text()) for kind in ("ordinary", "lean"))
        assert saved == {**ordinary, "embedding_dimension": 512} if "Pooling" in name else saved == ordinary
    loaded = SparseEncoder(str(tmp_path / "lean"), device="cpu")
    assert type(loaded[1]) is SpladePooling
    torch.testing.assert_close(vectors(loaded), vectors(model), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_is_saved_loads_without_this_package(make_model: MakeModel, tmp_path: Path) -> None:
    model = lean(make_model())
    model.save_pretrained(str(tmp_path / "lean"))

    finished = subprocess.run(
        [sys.executable, "-c", ORDINARY.format(texts=TEXTS), str(tmp_path / "lean"), str(tmp_path / "vectors")],
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr
    assert "'SpladePooling'" in finished.stdout
    torch.testing.assert_close(torch.load(tmp_path / "vectors"), vectors(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_streams_with_its_own_weights(make_model: MakeModel, copied: Callable[[Any], Any]) -> None:
    model = lean(make_model())
    expected = vectors(model)

    again = copied(model)

    (head,) = heads_of(again)
    assert head.decoder is again.transformers_model.get_output_embeddings()
    torch.testing.assert_close(vectors(again), expected)
    with torch.no_grad():
        head.decoder.bias.fill_(-100)
    assert not vectors(again).any()
    torch.testing.assert_close(vectors(model), expected)


def test_an_ordinary_loss_has_the_same_gradients(make_model: MakeModel) -> None:
    gradients = []
    for model in (make_model().double(), lean(make_model().double())):
        loss = SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), 1e-3, 1e-3)
        sum(loss([model.preprocess(TEXTS[:2]), model.preprocess(TEXTS[1:3])]).values()).backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})

    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_opensearchs_activation_is_kept(make_model: MakeModel) -> None:
    model = make_model()
    model[1] = SpladePooling("max", activation_function="log1p_relu")
    expected = vectors(model)

    torch.testing.assert_close(vectors(lean(model)), expected, rtol=1e-5, atol=1e-5)
    assert model[1].get_config_dict()["activation_function"] == "log1p_relu"


def test_each_route_of_a_router_becomes_lean(make_model: MakeModel) -> None:
    transformer, pooling = make_model()
    queries = [SparseStaticEmbedding(tokenizer=transformer.tokenizer, weight=torch.ones(512))]
    model = SparseEncoder(modules=[Router.for_query_document(queries, [transformer, pooling])], device="cpu")
    expected = model.encode_document(TEXTS[:2], convert_to_sparse_tensor=False)

    lean(model)

    assert len(heads_of(model)) == 1
    torch.testing.assert_close(model.encode_document(TEXTS[:2], convert_to_sparse_tensor=False), expected)


def test_a_pooling_that_needs_all_logits_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    model[1] = SpladePooling("sum")

    with pytest.raises(ConfigError, match="the pooling sum needs all logits"):
        lean(model)

    assert not heads_of(model)


def test_a_model_without_splade_pooling_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    del model[1]

    with pytest.raises(ConfigError, match="no Transformer followed by SpladePooling"):
        lean(model)


def test_a_model_that_would_give_other_vectors_is_refused_and_left_as_it_was(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    expected = vectors(model)
    monkeypatch.setattr(HiddenStates, "forward", lambda self, input: 2 * input)

    with pytest.raises(ConfigError, match="BertForMaskedLM gives other vectors"):
        lean(model)

    assert isinstance(model[0], Transformer) and type(model[1]) is SpladePooling
    torch.testing.assert_close(vectors(model), expected)


def test_unpadded_texts_are_refused(make_model: MakeModel) -> None:
    (head,) = heads_of(lean(make_model()))

    with pytest.raises(ConfigError, match="unpad_inputs = False"):
        head({"cu_seq_lens_q": torch.tensor([0, 3]), "token_embeddings": torch.zeros(1, 3, 32)})


def test_a_module_behind_the_pooling_is_refused(make_model: MakeModel) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    ordinary = make_model()
    model = SparseEncoder(modules=[*ordinary, Normalize()], device="cpu")

    with pytest.raises(ConfigError, match="a Normalize follows the SpladePooling"):
        lean(model)
