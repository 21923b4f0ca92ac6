"""The intercepted operators alone: what they keep, where they end, and that no recomputation outlives its truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splade_bench.device.planned import PlannedAllocator, PlannedDevice, planning_for
from splade_bench.device.storages import LiveStorages
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.lean import lean_operators

MEMORY = MemoryConfig(in_place_gradients=False)
WEIGHT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Layers = Callable[[Tensor, Tensor], Tensor]


def gradients(layers: Layers, *, lean: bool, train_inputs: bool = True) -> list[Tensor]:
    inputs, weight = INPUTS.clone().requires_grad_(train_inputs), WEIGHT.clone().requires_grad_()
    if lean:
        with lean_operators(MEMORY):
            outputs = layers(inputs, weight)
    else:
        outputs = layers(inputs, weight)
    return list(torch.autograd.grad(outputs.square().sum(), [inputs, weight] if train_inputs else [weight]))


def changed_result(inputs: Tensor, weight: Tensor) -> Tensor:
    result = F.gelu(inputs * 1.0)
    result.mul_(2.0)
    return F.linear(result, weight)


def dropped_in_place(inputs: Tensor, weight: Tensor) -> Tensor:
    torch.manual_seed(0)
    return F.linear(F.dropout(F.layer_norm(inputs, (4,)), 0.5, inplace=True), weight)


def activated_in_place(inputs: Tensor, weight: Tensor) -> Tensor:
    return F.linear(F.silu(inputs * 1.0, inplace=True), weight)


@pytest.mark.parametrize("layers", [changed_result, dropped_in_place, activated_in_place])
def test_a_result_that_was_changed_in_place_is_not_made_again_from_its_old_recomputation(layers: Layers) -> None:
    for ours, plain in zip(gradients(layers, lean=True), gradients(layers, lean=False), strict=True):
        torch.testing.assert_close(ours, plain)


def test_a_result_whose_inputs_were_changed_in_place_is_not_made_again_from_them() -> None:
    def layers(inputs: Tensor, weight: Tensor) -> Tensor:
        result = F.gelu(inputs)
        inputs.mul_(3.0)
        return F.linear(result, weight)

    ours, plain = (gradients(layers, lean=lean, train_inputs=False) for lean in (True, False))

    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(
    "layers",
    [
        lambda inputs, weight: F.linear(F.gelu(input=inputs, approximate="tanh"), weight=weight),
        lambda inputs, weight: F.linear(input=F.silu(input=inputs), weight=weight, bias=weight.sum(1)),
        lambda inputs, weight: F.linear(F.layer_norm(input=inputs, normalized_shape=(4,), eps=0.1), weight),
        lambda inputs, weight: F.linear(F.dropout(input=inputs, p=0.0), weight),
        lambda inputs, weight: F.linear(F.embedding(input=torch.tensor([2, 0]), weight=inputs), weight),
    ],
)
def test_arguments_may_be_named_as_torch_names_them(layers: Layers) -> None:
    for ours, plain in zip(gradients(layers, lean=True), gradients(layers, lean=False), strict=True):
        torch.testing.assert_close(ours, plain)


def kept_bytes(layers: Layers) -> int:
    """Of distinct tensors that autograd keeps for backward, weights left out."""
    inputs, weight = INPUTS.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = layers(inputs, weight)
    storages.pop(weight.untyped_storage().data_ptr())
    assert outputs.requires_grad  # until here the graph lives, and no address is used twice
    return sum(storages.values())


@pytest.mark.parametrize("operator", [F.gelu, F.silu, lambda inputs: F.layer_norm(inputs, (4,))])
def test_a_linear_layer_keeps_no_activation_that_can_be_made_again(operator: Callable[[Tensor], Tensor]) -> None:
    def layers(inputs: Tensor, weight: Tensor) -> Tensor:
        return F.linear(operator(inputs), weight)

    plain = kept_bytes(layers)
    with lean_operators(MEMORY):
        lean = kept_bytes(layers)

    assert plain - lean == INPUTS.numel() * INPUTS.element_size()


def test_operators_are_untouched_outside_the_block() -> None:
    inputs, weight = INPUTS.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    operators = (F.linear, F.embedding, F.dropout, F.gelu, F.silu, F.layer_norm, F.scaled_dot_product_attention)
    names = [type(F.linear(inputs, weight).grad_fn).__name__]
    with lean_operators(MemoryConfig()):
        inside = F.linear(inputs, weight).grad_fn
    names.append(type(F.linear(inputs, weight).grad_fn).__name__)
    with pytest.raises(ZeroDivisionError), lean_operators(MemoryConfig()):
        raise ZeroDivisionError
    names.append(type(F.linear(inputs, weight).grad_fn).__name__)

    assert inside is not None and type(inside.next_functions[0][0]).__name__ == "_LinearBackward"
    assert len(set(names)) == 1 and type(inside).__name__ not in names
    assert operators == (F.linear, F.embedding, F.dropout, F.gelu, F.silu, F.layer_norm, F.scaled_dot_product_attention)


def test_every_technique_switched_off_leaves_every_operator_to_torch() -> None:
    off = MemoryConfig(
        selective_recomputation=False, in_place_gradients=False, compact_dropout=False, streaming_attention=False
    )
    layers = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Dropout(0.5), nn.LayerNorm(4)).double()
    torch.manual_seed(0)
    plain = layers(INPUTS)
    torch.manual_seed(0)
    with lean_operators(off):
        lean = layers(INPUTS)

    assert torch.equal(lean, plain)

    def nodes(node: torch.autograd.graph.Node | None) -> list[str]:
        return [node.name()] + [name for parent, _ in node.next_functions for name in nodes(parent)] if node else []

    assert nodes(lean.grad_fn) == nodes(plain.grad_fn)


def test_the_same_activation_may_go_to_several_layers() -> None:
    def layers(inputs: Tensor, weight: Tensor) -> Tensor:
        shared = F.layer_norm(inputs, (4,))
        return F.linear(shared, weight) * F.linear(F.gelu(shared), weight) + F.linear(shared, weight.exp())

    for ours, plain in zip(gradients(layers, lean=True), gradients(layers, lean=False), strict=True):
        torch.testing.assert_close(ours, plain)


PLANNED_CUDA = PlannedDevice("cuda", PlannedAllocator())


def test_a_plan_for_cuda_keeps_a_byte_per_element_for_dropout() -> None:
    inputs = torch.empty(8, 16, requires_grad=True)
    live = LiveStorages()

    with planning_for(PLANNED_CUDA), live, lean_operators(MEMORY):
        dropped = F.dropout(inputs * 1, 0.1)

    assert live.live_bytes == dropped.nbytes + inputs.numel()  # the result and its mask


@pytest.mark.parametrize("function", [lambda inputs: F.layer_norm(inputs, (16,)), torch.log1p, lambda x: x.softmax(-1)])
def test_a_plan_for_cuda_computes_in_float32_what_its_autocast_does(function: Callable[[Tensor], Tensor]) -> None:
    inputs = torch.ones(8, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), lean_operators(MEMORY):
        assert function(inputs).dtype == torch.bfloat16
        with planning_for(PLANNED_CUDA):
            assert function(inputs).dtype == torch.float32


def test_attention_on_cuda_leaves_cudnn_out(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled = []
    attention = F.scaled_dot_product_attention
    heads = torch.ones(1, 2, 3, 4)

    def recorded(*arguments: Any, **keywords: Any) -> Tensor:
        enabled.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*arguments, **keywords)

    with lean_operators(MEMORY):
        monkeypatch.setattr("splade_bench.model.lean.F.scaled_dot_product_attention", recorded)
        attention(heads, heads, heads)
        with planning_for(PLANNED_CUDA):
            attention(heads, heads, heads)

    assert enabled == [True, False]
    assert torch.backends.cuda.cudnn_sdp_enabled()
