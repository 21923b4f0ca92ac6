"""A lean SparseEncoder as the cached step sees an encoder."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from splade_bench.batching.batches import TextBatch
from splade_bench.errors import ConfigError
from splade_bench.hugging_face.streaming import Features, HeadPass, StreamingSplade
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.checkpointing import checkpointing
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.gradients import takes_gradient_in_place
from splade_bench.model.head import Pooled, keeps_winners
from splade_bench.model.lean import lean_operators


class SparseEncoderView(SpladeEncoder):
    """One streaming head of a lean SparseEncoder, with the transformer before it.

    Each pass goes through the SparseEncoder itself, so what its trainer has put around it applies, such as autocast. A
    view is made for each step: it takes over the activation checkpointing that the trainer has switched on.

    Args:
        routing: features that a Router reads.

    Raises:
        ConfigError: the memory settings cannot be used with this model.
    """

    def __init__(self, model: SparseEncoder, head: StreamingSplade, memory: MemoryConfig, routing: Features) -> None:
        nn.Module.__init__(self)
        self.body = _network_before(head, model)
        self.decoder = head.decoder
        self._model, self._head, self._routing = model, head, routing
        checkpoints = memory.activation_checkpointing or checkpointing(self.body, "is_{}_checkpointing")
        self.configure(replace(memory, head="streaming", activation_checkpointing=bool(checkpoints)))
        device = self.device.type
        # A step's second passes run in backward, after the block that its caller may have opened.
        self._autocast: dict[str, Any] = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }

    def forward(self, batch: TextBatch, *, pooled: Pooled | None = None, active_share: float = 0.0) -> Tensor:
        """Vectors [N, V], with a graph unless gradients are off."""
        if self._trimmer and pooled is not None:
            self._trimmer.begin_pass()
        in_place = self.memory.in_place_gradients and takes_gradient_in_place(self.decoder.weight, self.decoder.bias)
        head_pass = HeadPass(
            graph=torch.is_grad_enabled(),
            keep_winners=torch.is_grad_enabled() and keeps_winners(self.device, active_share),
            in_place_gradients=in_place,
            pooled=pooled,
        )
        return self._vectors(batch, head_pass)

    @torch.no_grad()
    def pool(self, batch: TextBatch, *, active_share: float = 0.0) -> Pooled:
        """:meth:`forward` without a graph, and what the head needs for its backward later."""
        head_pass = HeadPass(graph=False, keep_winners=keeps_winners(self.device, active_share))
        self._vectors(batch, head_pass)
        assert head_pass.pooled is not None
        return head_pass.pooled

    def _vectors(self, batch: TextBatch, head_pass: HeadPass) -> Tensor:
        features = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **self._routing}
        with (
            lean_operators(self.memory, self._trimmer),
            torch.autocast(**self._autocast),
            self._head.passing(head_pass),
        ):
            vectors: Tensor = self._model(features)["sentence_embedding"]
        return vectors


def text_batch(features: Features) -> TextBatch:
    """The features of a column of texts, in the host's memory.

    Raises:
        ConfigError: they are those of other inputs, or of unpadded texts.
    """
    if "cu_seq_lens_q" in features or not {"input_ids", "attention_mask"} <= features.keys():
        raise ConfigError("LeanSpladeLoss needs padded texts: set unpad_inputs = False on the model's Transformer")
    token_types = features.get("token_type_ids")
    if token_types is not None and token_types.any():
        raise ConfigError("LeanSpladeLoss: a column has pairs of texts; give each text a column of its own")
    input_ids, attention_mask = features["input_ids"].cpu(), features["attention_mask"].cpu()
    positions = torch.arange(1, attention_mask.shape[1] + 1)
    # To the last token, because a text may be padded on the left.
    lengths = ((attention_mask != 0) * positions).amax(1).tolist()
    return TextBatch(input_ids, attention_mask, tuple(lengths))


def _network_before(head: StreamingSplade, model: SparseEncoder) -> Any:
    """The transformers model whose hidden states the head gets."""
    for modules in model.modules():
        if isinstance(modules, nn.Sequential):
            for before, module in pairwise(modules):
                if module is head and isinstance(before, Transformer):
                    return before.model
    raise ConfigError("LeanSpladeLoss: a streaming head has no Transformer before it")
