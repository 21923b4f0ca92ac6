"""Any masked-language model as a SPLADE encoder, cut at its output embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from splade_bench.batching.batches import TextBatch, tokenize
from splade_bench.batching.prompts import Prompts, TextKind
from splade_bench.config import ActivationName, MixedPrecision
from splade_bench.device.devices import memory_on
from splade_bench.device.heap import HeapTrimmer
from splade_bench.device.reads import mask_of
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.activations import saved_activation, set_saved_activation
from splade_bench.model.checkpointing import set_checkpointing
from splade_bench.model.gradients import takes_gradient_in_place
from splade_bench.model.head import Pooled, keeps_winners, pool, splade_max, splade_max_eager
from splade_bench.model.lean import lean_operators
from splade_bench.model.loading import load_model
from splade_bench.model.precision import AUTOCAST_DTYPES, wide_dtype
from splade_bench.model.proving import proved
from splade_bench.model.saved_settings import save_settings, saved_prompts, saved_similarity
from splade_bench.model.saving import get_limits, save_model_folder
from splade_bench.model.static_queries import StaticQueries, save_query_weights
from splade_bench.model.triton_head import require_triton
from splade_bench.objective import Similarity

_DEFAULT_MAX_LENGTH = 512
_POSITION_TABLES = ("position_embeddings", "embed_positions")
# A tokenizer without a limit has 10^30 here.
_NO_MAX_LENGTH = 2**31
# Without trimming, 62 MiB more of BERT-base stay resident and a step takes 3 % less time (reports/NEGATIVE.md).
_TRIM_INTERVAL_BYTES = 64 * 2**20
# --head -> whether the streaming head computes in Triton's kernels. None: where they can run.
_FUSED: Mapping[str, bool | None] = {"streaming": None, "tiled": False, "triton": True}


class SpladeEncoder(nn.Module):
    """Texts -> sparse vectors [N, V], from a masked-language model whose logits are never made.

    The model's output embeddings, a ``Linear`` [V, H] in every architecture, are taken out and replaced by an identity.
    What the model then calls logits are the hidden states before its decoder, bitwise. The head takes both from there.
    :meth:`save_pretrained` puts the output embeddings back.

    Attributes:
        memory: how forward and backward are computed, as :meth:`configure` set it for this device.
        prompts: texts before queries and documents, for those who tokenize them.
        similarity: what a query's score with a document is, for those who rank.
        activation: from the largest logit of an entry to its weight. :meth:`configure` changes it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        decoder = model.get_output_embeddings()
        if not isinstance(decoder, nn.Linear):
            found = "there are none" if decoder is None else f"they are of the class {type(decoder).__name__}"
            raise ConfigError(
                f"--model-name {model.config.name_or_path}: {type(model).__name__} cannot be used here, because its "
                f"output embeddings have to be a linear layer, and {found}; choose another architecture"
            )
        # By name, not by set_output_embeddings: BERT's setter also wants the new module's bias.
        self._decoder_name = next(name for name, module in model.named_modules() if module is decoder)
        model.set_submodule(self._decoder_name, nn.Identity())
        self.decoder = decoder
        self.body = model
        self.tokenizer = tokenizer
        self.activation = saved_activation(model.config)
        self.static_queries: StaticQueries | None = None
        self.prompts = Prompts()
        self.similarity: Similarity = "dot"
        # Each call of a tokenizer changes them; they are saved as they were.
        self._tokenizer_limits = get_limits(tokenizer)
        # Outside a Trainer, backward leaves gradients where autograd's callers expect them.
        self.configure(MemoryConfig(in_place_gradients=False))

    @classmethod
    def from_pretrained(cls, model_name: str, *, needs_head: bool = True) -> Self:
        """Load a masked-language model and its tokenizer from a local folder or, if there is none, from the Hub.

        Without ``needs_head``, a model that has no trained head gets a random one, for
        :func:`splade_bench.model.start.apply_start`.

        Raises:
            ConfigError: the model does not exist, has no trained masked-language-model head, needs its own code, gives
                a text another vector beside others, or has weights that are not finite, the tokenizer of another
                model, or output embeddings that cannot be taken out.
        """
        model, tokenizer = load_model(model_name, needs_head=needs_head)
        encoder = proved(cls, model, tokenizer, model_name=model_name)
        encoder.load_static_queries(model_name)
        encoder.prompts, encoder.similarity = saved_prompts(model_name), saved_similarity(model_name)
        return encoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.weight.device

    @property
    def query_weights(self) -> Tensor | None:
        """The learned weights of queries [V] that need no model."""
        return self.static_queries.weight if self.static_queries else None

    @property
    def vocab_size(self) -> int:
        """Entries of a vector, V."""
        return self.decoder.out_features

    @property
    def max_length(self) -> int:
        """Tokens after which a text is cut: as saved with the tokenizer, but at most the model's positions."""
        limits = (self.tokenizer.model_max_length, self.position_limit)
        return min((limit for limit in limits if limit and limit < _NO_MAX_LENGTH), default=_DEFAULT_MAX_LENGTH)

    @property
    def position_limit(self) -> int | None:
        """Tokens for which the model has positions; None if it has no table of them."""
        for name, module in self.body.named_modules():
            table = getattr(module, "weight", None)
            if name.endswith(_POSITION_TABLES) and isinstance(table, Tensor):
                # RoBERTa and its relatives count positions from behind their padding entry.
                padding_idx = getattr(module, "padding_idx", None)
                rows = len(table) - (0 if padding_idx is None else padding_idx + 1)
                # Others leave the first rows out, and their config says how many are left.
                return min(rows, getattr(self.body.config, "max_position_embeddings", rows))
        return None

    def require_positions(self, max_length: int) -> None:
        """Raise a :class:`ConfigError` if the model cannot take texts of ``max_length`` tokens."""
        if self.position_limit is not None and max_length > self.position_limit:
            raise ConfigError(f"--max-length {max_length}: this model takes at most {self.position_limit} tokens")

    @property
    def body_size(self) -> int:
        """Layers x hidden size: the activations of a token grow with it."""
        return int(getattr(self.body.config, "num_hidden_layers", 1)) * self.decoder.in_features

    def configure(
        self,
        memory: MemoryConfig,
        *,
        mixed_precision: MixedPrecision = "no",
        activation: ActivationName | None = None,
    ) -> None:
        """Choose how forward and backward are computed from now on. The model's weights stay the same.

        Only ``activation`` changes the vectors; it is saved with the model. None: as it is.

        Move the encoder to its device first.

        Raises:
            ConfigError: transformers has no activation checkpointing for this architecture, or the head cannot run on
                this device.
        """
        if memory.head == "triton":
            require_triton(self.device)
        if memory.activation_checkpointing and not self.body.supports_gradient_checkpointing:
            raise ConfigError(
                f"--activation-checkpointing: {type(self.body).__name__} does not support it; "
                "use --no-activation-checkpointing"
            )
        if activation:
            self.activation = activation
            set_saved_activation(self.body.config, activation)
        self.memory = memory = memory_on(self.device, memory)
        self._trimmer = trimmer = HeapTrimmer(_TRIM_INTERVAL_BYTES) if memory.trim_heap else None
        self._autocast_dtype = AUTOCAST_DTYPES.get(mixed_precision)
        set_checkpointing(self.body, memory, trimmer, self.device)

    def forward(self, batch: TextBatch, *, pooled: Pooled | None = None, active_share: float = 0.0) -> Tensor:
        """Sparse vectors [N, V], non-negative, of a batch on the encoder's device.

        With ``pooled``, the result of :meth:`pool` for the same batch and random numbers, the head only prepares its
        backward. ``active_share`` is the expected share of the vectors' entries that are active: the streaming head
        decides by it in which pass to find winners, and a plan takes it as true.
        """
        if self._trimmer and pooled is not None:
            self._trimmer.begin_pass()
        with self._computing():
            head_inputs = self._head_inputs(batch)
            # In an evaluation the streaming head takes less memory than training, whatever the configuration.
            if self.memory.head == "eager" and (self.training or torch.is_grad_enabled()):
                return splade_max_eager(*head_inputs, activation=self.activation)
            _, weight, bias, _ = head_inputs
            return splade_max(
                *head_inputs,
                keep_winners=torch.is_grad_enabled() and keeps_winners(self.device, active_share),
                in_place_gradients=self.memory.in_place_gradients and takes_gradient_in_place(weight, bias),
                planned_active_share=active_share,
                pooled=pooled,
                fused=_FUSED.get(self.memory.head),
                activation=self.activation,
            )

    def query_vectors(self, batch: TextBatch, *, active_share: float = 0.0) -> Tensor:
        """Sparse vectors [N, V] of queries, by the model or by static weights."""
        if self.static_queries is not None:
            return self.static_queries(batch)  # type: ignore[no-any-return]
        vectors: Tensor = self(batch, active_share=active_share)
        return vectors

    def use_static_queries(self, weight: Tensor | None = None) -> None:
        """From now on, make queries' vectors of a weight for each token [V]. None: 1 for each."""
        weight = torch.ones(self.vocab_size) if weight is None else weight
        queries = StaticQueries(weight, self.tokenizer.all_special_ids)
        self.static_queries = queries.to(self.device, wide_dtype(self.decoder.weight.dtype))

    def load_static_queries(self, model_name: str) -> None:
        """Take the static weights of queries that a saved model has, if any.

        Raises:
            DataError: they are damaged, or of another model.
        """
        found = StaticQueries.load(model_name, self.tokenizer.all_special_ids, self.vocab_size)
        self.static_queries = found.to(self.device, wide_dtype(self.decoder.weight.dtype)) if found else None

    @torch.no_grad()
    def pool(self, batch: TextBatch, *, active_share: float = 0.0) -> Pooled:
        """:meth:`forward` without a graph, and what the head needs for its backward later."""
        if self.memory.head == "eager":
            return Pooled(self(batch), None)
        with self._computing():
            return pool(
                *self._head_inputs(batch),
                keep_winners=keeps_winners(self.device, active_share),
                fused=_FUSED.get(self.memory.head),
                activation=self.activation,
            )

    def _head_inputs(self, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Hidden states [N, L, H], the decoder's weight and bias, the attention mask."""
        mask = mask_of(batch.attention_mask, lengths=batch.lengths)
        hidden = self.body(input_ids=batch.input_ids, attention_mask=mask).logits
        return hidden, self.decoder.weight, self.decoder.bias, batch.attention_mask

    @contextmanager
    def _computing(self) -> Iterator[None]:
        enabled = self._autocast_dtype is not None
        with (
            lean_operators(self.memory, self._trimmer),
            torch.autocast(self.device.type, self._autocast_dtype, enabled=enabled),
        ):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside the block the encoder is in eval mode."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def tokenize(self, texts: Sequence[str], *, max_length: int, kind: TextKind | None = None) -> TextBatch:
        """Texts -> token ids on the encoder's device, with the prompt of queries or documents if ``kind`` is given."""
        texts = self.prompts.before(texts, kind) if kind else texts
        return tokenize(self.tokenizer, texts, max_length=max_length).to(self.device)

    def save_pretrained(self, folder: Path) -> None:
        """Write model and tokenizer so that ``AutoModelForMaskedLM.from_pretrained(folder)`` loads them.

        The tokenizer is written as it was loaded, without the limits of a run's texts, and so that transformers 4 reads
        it. All files get the permissions of other new files.

        Args:
            folder: a new or an empty folder. Files that it has are overwritten.

        Raises:
            OSError: it cannot be written, or has a symbolic link.
        """
        with self.whole_model() as model:
            save_model_folder(folder, model, self.tokenizer, self._tokenizer_limits, more=self._save_more)

    def _save_more(self, folder: Path) -> None:
        save_settings(folder, self.prompts, self.similarity)
        save_query_weights(folder, self.static_queries)

    @contextmanager
    def whole_model(self) -> Iterator[PreTrainedModel]:
        """The masked-language model with its output embeddings. Do not use the encoder inside the block."""
        self.body.set_submodule(self._decoder_name, self.decoder)
        try:
            yield self.body
        finally:
            self.body.set_submodule(self._decoder_name, nn.Identity())
