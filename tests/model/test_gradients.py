"""Gradients in place: where they go, who is told, and who gets none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import make_model, wrap
from equality import (
    FP64,
    GradientsSeen,
    assert_gradients_are_near,
    make_config,
    step_gradients,
    trained_gradients,
)
from tokenizers import Tokenizer
from torch import Tensor, nn

from splade_bench.data.records import Triple
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.model.gradients import embedding, existing_grad, linear, plain_linear, release_gradients
from splade_bench.model.lean import lean_operators
from splade_bench.training import Trainer

EFFICIENT = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=4)
STANDARD = MEMORY_MODES["standard"]


def summed_in_place(parameter: Tensor, run: Callable[[], Tensor], times: int) -> Tensor:
    """``parameter.grad`` after ``times`` backward passes; it must be the same memory all along."""
    addresses = set()
    for _ in range(times):
        run().square().sum().backward()
        assert parameter.grad is not None
        addresses.add(parameter.grad.data_ptr())
    assert len(addresses) == 1
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_adds_to_the_gradient_that_is_there(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=bias).double()
    inputs = torch.randn(2, 5, 4, dtype=torch.float64)
    layer.weight.grad = torch.ones_like(layer.weight)
    before = layer.weight.grad.data_ptr()

    total = summed_in_place(
        layer.weight, lambda: linear(inputs, layer.weight, layer.bias, recomputation=None, in_place=True), 3
    )

    expected = torch.autograd.grad(layer(inputs).square().sum(), list(layer.parameters()))
    assert total.data_ptr() == before
    torch.testing.assert_close(total, 1 + 3 * expected[0])
    if bias:
        torch.testing.assert_close(layer.bias.grad, 3 * expected[1])


@pytest.mark.parametrize("padding_idx", [None, 0, 2, -1])
def test_an_embedding_adds_to_the_gradient_that_is_there_and_never_to_the_padding_entry(
    padding_idx: int | None,
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    token_ids = torch.tensor([[0, 2, 5], [2, 2, 4]])

    total = summed_in_place(weight, lambda: embedding(token_ids, weight, padding_idx), 2)

    plain = F.embedding(token_ids, weight, padding_idx).square().sum()
    torch.testing.assert_close(total, 2 * torch.autograd.grad(plain, weight)[0])


def test_released_gradients_are_none_and_their_memory_is_not_used_again() -> None:
    weight = torch.ones(3, 2, requires_grad=True)
    existing_grad(weight).fill_(7.0)
    kept = weight.grad
    weight.grad = None
    assert kept is not None
    assert existing_grad(weight).data_ptr() == kept.data_ptr()
    assert torch.count_nonzero(existing_grad(weight)) == 0

    release_gradients([weight])
    assert weight.grad is None
    assert existing_grad(weight).data_ptr() != kept.data_ptr()


def test_weights_and_gradients_keep_their_memory_over_the_batches_of_a_step(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    addresses: dict[str, set[int]] = {}
    phases: list[str] = []

    class Addresses(GradientsSeen):
        def on_phase(self, phase: str) -> None:
            phases.append(phase)
            for name, parameter in encoder.named_parameters():
                if parameter.grad is not None:
                    addresses.setdefault(name, set()).update([parameter.data_ptr(), parameter.grad.data_ptr()])

    config = make_config(memory=EFFICIENT, gradient_accumulation_steps=3)
    Trainer(encoder, triples, config, observers=[Addresses(encoder)]).train()

    assert phases.count("loss") == 3 and phases.count("optimizer_step") == 1
    assert "decoder.weight" in addresses
    assert all(len(found) == 2 for found in addresses.values())


def frozen_names(encoder: SpladeEncoder, what: str) -> set[str]:
    chosen = {
        "embeddings": lambda name: "embeddings." in name,
        "tied weight": lambda name: "word_embeddings.weight" in name or name == "decoder.weight",
        "decoder's bias": lambda name: name == "decoder.bias" or name.endswith("predictions.bias"),
        "a layer": lambda name: "encoder.layer.0." in name,
        "weights, not biases": lambda name: name.endswith("weight") and "embeddings" not in name,
        "everything but the decoder": lambda name: not name.startswith("decoder"),
    }[what]
    return {name for name, _ in encoder.named_parameters(remove_duplicate=False) if chosen(name)}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "what",
    [
        "embeddings",
        "tied weight",
        "decoder's bias",
        "a layer",
        "weights, not biases",
        "everything but the decoder",
    ],
)
def test_frozen_parameters_get_no_gradient_and_stay_as_they_are(
    encoder: SpladeEncoder, triples: Sequence[Triple], what: str, checkpointing: bool
) -> None:
    if what == "everything but the decoder":
        encoder.decoder.weight = nn.Parameter(encoder.decoder.weight.detach().clone())
    names = frozen_names(encoder, what)
    for name in names:
        encoder.get_parameter(name).requires_grad_(False)
    before = {name: encoder.get_parameter(name).clone() for name in names}
    config = make_config()

    plain = trained_gradients(encoder, triples, replace(config, memory=STANDARD), torch.float64)
    memory = replace(EFFICIENT, activation_checkpointing=checkpointing)
    ours = trained_gradients(encoder, triples, replace(config, memory=memory), torch.float64)
    Trainer(encoder, triples, replace(config, memory=memory, max_steps=2)).train()

    assert names
    assert not names & ours.keys()
    assert_gradients_are_near(ours, plain, FP64)
    assert all(torch.equal(encoder.get_parameter(name), value) for name, value in before.items())
    assert all(encoder.get_parameter(name).grad is None for name in names)


HOOKED = ("decoder.weight", "decoder.bias", "body.bert.encoder.layer.0.intermediate.dense.weight")


@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_on_a_gradient_sees_and_may_change_it(
    encoder: SpladeEncoder, triples: Sequence[Triple], name: str
) -> None:
    # All texts equally wide, so one mini-batch: the hook is to be called once.
    memory = replace(EFFICIENT, mini_batch_size=None, pad_to_multiple_of=16)
    seen: dict[str, list[Tensor]] = {"standard": [], "ours": []}
    results = {}
    for which, row in (("standard", STANDARD), ("ours", memory)):
        model = copy.deepcopy(encoder).double()
        parameter = model.get_parameter(name)

        def hook(gradient: Tensor, which: str = which) -> Tensor:
            seen[which].append(gradient.clone())
            return gradient * 2

        parameter.register_hook(hook)
        results[which] = step_gradients(model, triples, make_config(memory=row, max_grad_norm=0.0))

    assert len(seen["ours"]) == len(seen["standard"]) == 1
    torch.testing.assert_close(seen["ours"][0], seen["standard"][0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(results["ours"][name], 2 * seen["standard"][0], rtol=1e-9, atol=1e-12)
    assert_gradients_are_near(results["ours"], results["standard"], FP64)


@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_after_accumulation_finds_the_gradient_in_place(
    encoder: SpladeEncoder, triples: Sequence[Triple], name: str
) -> None:
    config = make_config(memory=EFFICIENT, max_grad_norm=0.0)
    expected = trained_gradients(encoder, triples, replace(config, memory=STANDARD), torch.float64)
    model = copy.deepcopy(encoder).double()
    found: list[Tensor] = []

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        found.append(parameter.grad.clone())

    model.get_parameter(name).register_post_accumulate_grad_hook(hook)
    step_gradients(model, triples, config)

    assert len(found) > 1  # once a mini-batch
    torch.testing.assert_close(found[-1], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_tied_and_untied_decoders_with_and_without_bias_get_the_plain_gradients(
    tokenizer: Tokenizer, triples: Sequence[Triple], tied: bool, bias: bool
) -> None:
    encoder = SpladeEncoder(make_model("distilbert", dropout=0.0, vocab_size=512), wrap(tokenizer))
    assert encoder.decoder.weight is encoder.body.get_input_embeddings().weight
    if not tied:
        encoder.decoder.weight = nn.Parameter(encoder.decoder.weight.detach() * 1.1)
    if not bias:
        encoder.decoder.bias = None
    config = make_config(gradient_accumulation_steps=2)

    plain = trained_gradients(encoder, triples, replace(config, memory=STANDARD), torch.float64)
    ours = trained_gradients(encoder, triples, replace(config, memory=EFFICIENT), torch.float64)

    assert ("decoder.bias" in plain) == bias
    assert len(plain) == sum(1 for _ in encoder.parameters())
    assert_gradients_are_near(ours, plain, FP64)


def test_no_gradient_is_written_where_none_is_asked_for() -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad(), lean_operators(MemoryConfig()):
        outputs: Any = layer(torch.ones(2, 4))

    assert not outputs.requires_grad
    assert layer.weight.grad is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["3-D", "2-D", "1-D", "transposed"])
def test_a_linear_layer_is_torchs_for_inputs_of_any_layout(layout: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=bias).double()
    inputs = torch.randn(2, 5, 4, dtype=torch.float64)
    inputs = {"3-D": inputs, "2-D": inputs[0], "1-D": inputs[0, 0], "transposed": inputs.transpose(0, 1)}[layout]
    expected = layer(inputs)
    upstream = torch.randn_like(expected)
    leaf, other = (inputs.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))

    ours = linear(leaf, layer.weight, layer.bias, recomputation=None, in_place=False)

    assert torch.equal(ours, plain_linear(inputs, layer.weight, layer.bias))
    torch.testing.assert_close(ours, expected)
    wanted = [other, *layer.parameters()]
    plain = torch.autograd.grad(layer(other), wanted, upstream)
    for gradient, right in zip(torch.autograd.grad(ours, [leaf, *wanted[1:]], upstream), plain, strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("in_place", [True, False])
def test_the_result_of_a_linear_layer_may_be_changed_in_place(in_place: bool) -> None:
    """As DeBERTa v1 does with views of it, and RoCBert with the result itself."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 6).double()
    inputs = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)

    def changed(result: Tensor) -> Tensor:
        result += 1
        part = result.view(2, 5, 3, 2).permute(0, 2, 1, 3)
        part /= 2
        return part.square().sum()

    expected = torch.autograd.grad(changed(F.linear(inputs, layer.weight, layer.bias)), [inputs, layer.weight])
    changed(linear(inputs, layer.weight, layer.bias, recomputation=None, in_place=in_place)).backward()

    assert layer.weight.grad is not None and inputs.grad is not None
    torch.testing.assert_close(inputs.grad, expected[0])
    torch.testing.assert_close(layer.weight.grad, expected[1])
