"""Any masked-language model as a SPLADE encoder, cut at its output embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from typing_extensions import Self

from splade_bench.batching.batches import TextBatch, tokenize
from splade_bench.config import MemoryConfig, MixedPrecision
from splade_bench.device.devices import device_type
from splade_bench.device.heap import HeapTrimmer
from splade_bench.device.reads import mask_of
from splade_bench.errors import ConfigError
from splade_bench.model.gradients import takes_gradient_in_place
from splade_bench.model.head import WINNERS_PAY_FROM, Pooled, pool, splade_max, splade_max_eager
from splade_bench.model.lean import lean_operators, recipe_scope
from splade_bench.model.rng import RngState, capture_rng, restored_rng

_DEFAULT_MAX_LENGTH = 512
# From here on a tokenizer says nothing: transformers writes 10^30 for no limit.
_NO_MAX_LENGTH = 2**31
# What a folder that is no whole model makes transformers raise.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
# Without trimming, 62 MiB more of BERT-base stay resident and a step takes 3 % less time (reports/NEGATIVE.md).
_TRIM_INTERVAL_BYTES = 64 * 2**20
_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class SpladeEncoder(nn.Module):
    """Texts -> sparse vectors [N, V]: a masked-language model whose logits are never asked for.

    The model's output embeddings, a ``Linear`` [V, H] in every architecture, are taken out and an identity put in
    their place: what the model then calls logits are the hidden states before its decoder, bitwise. The head takes
    both from there. :meth:`save_pretrained` puts them back.

    Attributes:
        memory: how forward and backward are computed; set by :meth:`configure`.
        active_share: share of the vectors' entries that were active of late, as whoever trains the encoder knows it:
            the streaming head chooses its way of finding winners by it, and a plan takes it as given.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        decoder = model.get_output_embeddings()
        if not isinstance(decoder, nn.Linear):
            raise ConfigError(
                f"--model-name {model.config.name_or_path}: {type(model).__name__} has no masked-language-model head; "
                "choose a model that AutoModelForMaskedLM loads whole"
            )
        # By name, not by set_output_embeddings: BERT's setter also wants the new module's bias.
        self._decoder_name = next(name for name, module in model.named_modules() if module is decoder)
        model.set_submodule(self._decoder_name, nn.Identity())
        self.decoder = decoder
        self.body = model
        self.tokenizer = tokenizer
        self.active_share = 0.0
        # autograd's own way for whoever calls backward; a Trainer may have gradients summed in place.
        self.configure(MemoryConfig(in_place_gradients=False))

    @classmethod
    def from_pretrained(cls, model_name: str) -> Self:
        """Load a masked-language model and its tokenizer from a local folder or, when named so, the Hub.

        Raises:
            ConfigError: the name leads nowhere, to a model without a trained MLM head, to one that needs its own
                code, or to a tokenizer of another model.
        """
        tokenizer = cls.load_tokenizer(model_name)
        with _loading(model_name):
            model, loading = AutoModelForMaskedLM.from_pretrained(
                model_name,
                dtype=torch.float32,  # otherwise that of the checkpoint, and updates are lost in half precision
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:3])
            raise ConfigError(
                f"--model-name {model_name}: has no masked-language-model head (no weights for {missing})"
            )
        embeddings = len(model.get_input_embeddings().weight)
        if len(tokenizer) > embeddings:
            raise ConfigError(
                f"--model-name {model_name}: its tokenizer has {len(tokenizer)} tokens, its embeddings are of "
                f"{embeddings}; save the two together, after resize_token_embeddings"
            )
        return cls(model, tokenizer)

    @staticmethod
    def load_tokenizer(model_name: str) -> PreTrainedTokenizerBase:
        """The tokenizer of :meth:`from_pretrained` by itself.

        Raises:
            ConfigError: the name leads nowhere, or to one that needs its own code.
        """
        with _loading(model_name):
            _refuse_custom_code(model_name)
            # Without the explicit no, transformers asks on a terminal whether a Hub model's own code may run.
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_name, trust_remote_code=False)
        return tokenizer

    @classmethod
    def from_config(cls, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Self:
        """An encoder of this architecture, its weights left as memory comes: for a plan, which reads none.

        Raises:
            ConfigError: the architecture is unknown or has no masked-language-model head.
        """
        with _loading(str(config.name_or_path)), no_init_weights():
            model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
        model.tie_weights()
        return cls(model, tokenizer)

    @property
    def device(self) -> torch.device:
        return self.decoder.weight.device

    @property
    def vocab_size(self) -> int:
        return self.decoder.out_features

    @property
    def reps_dtype(self) -> torch.dtype:
        """Of the sparse vectors, which autocast leaves wide."""
        return torch.promote_types(self.decoder.weight.dtype, torch.float32)

    @property
    def max_length(self) -> int:
        """Tokens after which a text is cut, as saved with the tokenizer; at most the model's own positions."""
        limits = (self.tokenizer.model_max_length, self.position_limit)
        return min((limit for limit in limits if limit and limit < _NO_MAX_LENGTH), default=_DEFAULT_MAX_LENGTH)

    @property
    def position_limit(self) -> int | None:
        """Tokens for which the model has positions; None where it needs no table of them."""
        for name, module in self.body.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                # RoBERTa and its kin count positions from behind their padding entry.
                reserved = 0 if module.padding_idx is None else module.padding_idx + 1
                return int(module.num_embeddings) - reserved
        return None

    def require_positions(self, max_length: int) -> None:
        """Raise a :class:`ConfigError` if the model cannot take texts of ``max_length`` tokens."""
        if self.position_limit is not None and max_length > self.position_limit:
            raise ConfigError(f"--max-length {max_length}: this model has positions for {self.position_limit} tokens")

    @property
    def body_size(self) -> int:
        """Layers x hidden size: what the activations of a token grow with."""
        config = self.body.config
        return int(getattr(config, "num_hidden_layers", 1)) * self.decoder.in_features

    def configure(self, memory: MemoryConfig, *, mixed_precision: MixedPrecision = "no") -> None:
        """Choose how forward and backward are computed from now on; weights and results stay as they are.

        The encoder is on the device that it is to compute on by then.

        Raises:
            ConfigError: transformers has no activation checkpointing for this architecture.
        """
        if memory.activation_checkpointing and not self.body.supports_gradient_checkpointing:
            raise ConfigError(
                f"--activation-checkpointing: {type(self.body).__name__} does not support it; "
                "use --no-activation-checkpointing"
            )
        self.memory = memory
        trims = memory.trim_heap and device_type(self.device) == "cpu"  # an accelerator's memory is not of the heap
        self._trimmer = trimmer = HeapTrimmer(_TRIM_INTERVAL_BYTES) if trims else None
        self.autocast_dtype = _AUTOCAST_DTYPES.get(mixed_precision)
        if memory.activation_checkpointing:
            device = self.device  # whose generator torch keeps for a layer's second time only if it is CUDA's
            options = {
                "use_reentrant": False,
                "context_fn": lambda: (recipe_scope(), _again(memory, trimmer, capture_rng(device))),
            }
            _checkpointing(self.body, "{}_checkpointing_enable")(options)
        elif _checkpointing(self.body, "is_{}_checkpointing"):
            _checkpointing(self.body, "{}_checkpointing_disable")()

    def forward(self, batch: TextBatch, *, pooled: Pooled | None = None) -> Tensor:
        """Sparse vectors [N, V], non-negative, of a batch on the encoder's device.

        With ``pooled``, the result of :meth:`pool` for the same batch and random numbers, the head only prepares its
        backward.
        """
        if self._trimmer and pooled is not None:
            self._trimmer.begin_again()
        with self._computing():
            hidden = self._hidden(batch)
            decoder = self.decoder
            # For nothing but its result, as an evaluation is, a batch should not take more than in training.
            if self.memory.head == "eager" and (self.training or torch.is_grad_enabled()):
                return splade_max_eager(hidden, decoder.weight, decoder.bias, batch.attention_mask)
            return splade_max(
                hidden,
                decoder.weight,
                decoder.bias,
                batch.attention_mask,
                keep_winners=self._keeps_winners,
                in_place_gradients=self.memory.in_place_gradients
                and takes_gradient_in_place(decoder.weight, decoder.bias),
                planned_active_share=self.active_share,
                pooled=pooled,
            )

    @torch.no_grad()
    def pool(self, batch: TextBatch) -> Pooled:
        """:meth:`forward` without a graph, and what the head needs to go through backward later."""
        if self.memory.head == "eager":
            return Pooled(self(batch), None)
        with self._computing():
            hidden = self._hidden(batch)
            decoder = self.decoder
            return pool(hidden, decoder.weight, decoder.bias, batch.attention_mask, keep_winners=self._keeps_winners)

    def _hidden(self, batch: TextBatch) -> Tensor:
        """What the decoder is given, [N, L, H]."""
        mask = mask_of(batch.attention_mask, planned_lengths=batch.lengths)
        hidden: Tensor = self.body(input_ids=batch.input_ids, attention_mask=mask).logits
        return hidden

    @property
    def _keeps_winners(self) -> bool:
        return self.active_share >= WINNERS_PAY_FROM

    @contextmanager
    def _computing(self) -> Iterator[None]:
        enabled = self.autocast_dtype is not None
        with (
            lean_operators(self.memory, self._trimmer),
            torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled),
        ):
            yield

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        max_length: int,
        padding: Literal["max_length", "longest"] = "longest",
    ) -> TextBatch:
        """Texts -> token ids on the encoder's device."""
        batch = tokenize(self.tokenizer, texts, max_length=max_length, padding=padding)
        return batch.to(self.device)

    def save_pretrained(self, folder: Path) -> None:
        """Write model and tokenizer so that ``AutoModelForMaskedLM.from_pretrained(folder)`` loads them."""
        try:
            with self.whole_model() as model:
                model.save_pretrained(folder)
        except SafetensorError as error:  # a full disk, which is an error of the system's everywhere else
            raise OSError(f"{folder}: {error}") from error
        self.tokenizer.save_pretrained(folder)

    @contextmanager
    def whole_model(self) -> Iterator[PreTrainedModel]:
        """The masked-language model as it came, its output embeddings in their place; the encoder rests meanwhile."""
        self.body.set_submodule(self._decoder_name, self.decoder)
        try:
            yield self.body
        finally:
            self.body.set_submodule(self._decoder_name, nn.Identity())


def load_config(model_name: str) -> PretrainedConfig:
    """The config of a model in a local folder or, when named so, on the Hub.

    Raises:
        ConfigError: the name leads nowhere, or to a model that needs its own code.
    """
    with _loading(model_name):
        _refuse_custom_code(model_name)
        config: PretrainedConfig = AutoConfig.from_pretrained(model_name, trust_remote_code=False)
    return config


@contextmanager
def _again(memory: MemoryConfig, trimmer: HeapTrimmer | None, rng: RngState) -> Iterator[None]:
    """A layer inside the block takes the same paths and random numbers as the first time."""
    with restored_rng(rng), lean_operators(memory, trimmer):
        yield


@contextmanager
def _loading(model_name: str) -> Iterator[None]:
    """What transformers raises inside the block, as one line that names the model."""
    try:
        yield
    except _LOADING_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--model-name {model_name}: cannot be loaded: {reason}") from error


def _refuse_custom_code(model_name: str) -> None:
    """Raise if a local model's config names code of its own: clearer than what transformers would say."""
    config_path = Path(model_name) / "config.json"
    if config_path.is_file() and "auto_map" in json.loads(config_path.read_text(encoding="utf-8")):
        raise ConfigError(f"{config_path}: auto_map names custom code, which is never run here")


def _checkpointing(body: PreTrainedModel, name: str) -> Any:
    """An attribute of transformers' activation checkpointing, which earlier releases (5.20) call by another name."""
    try:
        return getattr(body, name.format("activation"))
    except AttributeError:
        return getattr(body, name.format("gradient"))
