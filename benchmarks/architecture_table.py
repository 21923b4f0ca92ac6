"""Every masked-language architecture of the installed transformers, tried on a small random model.

    python benchmarks/architecture_table.py docs/architectures.md

An architecture works, or it is refused when a model is loaded. Of one that works, vectors and gradients are compared
with those that its whole model and plain autograd give: in float64, or in float32 where it computes in that whatever it
is asked for.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase, digits
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from tabulate import tabulate
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from splade_bench.batching.batches import TextBatch, TripleBatch, pad
from splade_bench.config import TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.errors import ConfigError, PlanError
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.miniature import miniature
from splade_bench.model.presets import wrap_tokenizer
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.requests import PlanRequest, make_plan
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext, direct_step

VOCAB_SIZE = 120
# By type of number; the weights are large, and so are the differences of float32.
LARGEST_DIFFERENCE = {torch.float64: 1e-9, torch.float32: 1e-3}
# A tensor whose true gradient is zero, as an attention key's bias, is compared with this share of the model's largest.
_FLOOR = 1e-3
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
# What an architecture needs beside its defaults.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "deberta": _RELATIVE,
    "deberta-v2": _RELATIVE,
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 3},
    "xmod": {"default_language": "en_XX"},
}
# name -> architecture, settings
_VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bert, as a decoder": ("bert", {"is_decoder": True}),
    "bert, not tied": ("bert", {"tie_word_embeddings": False}),
    "deberta, its own head": ("deberta", {**_RELATIVE, "legacy": False}),
    "deberta-v2, its own head": ("deberta-v2", {**_RELATIVE, "legacy": False}),
    "esm, rotary": ("esm", {**_SETTINGS["esm"], "position_embedding_type": "rotary"}),
    "reformer, local attention": ("reformer", {"attn_layers": ["local", "local"]}),
    "xlm, adaptive softmax": ("xlm", {"asm": True, "asm_cutoffs": [40, 80], "asm_div_value": 4.0}),
    "xmod, no default language": ("xmod", {}),
    "yoso, hashed": ("yoso", {"use_expectation": False}),
}
# Enough for a tokenizer that suits the vocabulary.
_WORDS = " ".join([*(ascii_lowercase + digits), ascii_lowercase + digits])
_LONGEST_REASON = 120
_QUERY_LENGTHS, _DOCUMENT_LENGTHS = (3, 5, 2, 7), (9, 4, 12, 6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What came of an architecture."""

    name: str
    class_name: str
    refusal: str | None = None
    """The whole message. None: the architecture works."""
    checkpointing: bool = False
    """Whether transformers has activation checkpointing for it."""
    planned: bool | None = None
    """Whether it can be planned; None if that was not tried."""
    position_limit: int | None = None
    dtype: torch.dtype = torch.float64
    vectors: float = 0.0
    """Largest difference of a vector's entry."""
    gradient: float = 0.0
    """Largest difference of a gradient's element in any memory mode, relative to its tensor's largest."""


def architectures() -> Mapping[str, PretrainedConfig]:
    """A small config of each architecture and variant, by name."""
    own = {name: (name, _SETTINGS.get(name, {})) for name in MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    return {
        name: miniature(CONFIG_MAPPING[kind](**chosen), vocab_size=VOCAB_SIZE)
        for name, (kind, chosen) in {**own, **_VARIANTS}.items()
        if kind in CONFIG_MAPPING
    }


def load_architecture(name: str, config: PretrainedConfig, folder: Path) -> SpladeEncoder | Tried:
    """A model with this config, whose folder is made and loaded; or why there is none."""
    class_name = MODEL_FOR_MASKED_LM_MAPPING_NAMES[config.model_type]
    wrap_tokenizer(train_tokenizer([_WORDS], vocab_size=VOCAB_SIZE)).save_pretrained(folder)
    try:
        save_model(config, folder)
    except Exception as error:
        return Tried(name=name, class_name=class_name, refusal=f"transformers cannot make one: {error}")
    try:
        return SpladeEncoder.from_pretrained(str(folder))
    except ConfigError as error:
        return Tried(name=name, class_name=class_name, refusal=str(error))


def try_architecture(name: str, config: PretrainedConfig, folder: Path) -> Tried:
    """Load a model with this config, whose folder is made, and compare it with the whole model."""
    encoder = load_architecture(name, config, folder)
    if isinstance(encoder, Tried):
        return encoder
    modes = [replace(MEMORY_MODES["memory-efficient"], mini_batch_size=3)]
    if encoder.body.supports_gradient_checkpointing:
        modes.append(replace(MEMORY_MODES["minimal-memory"], mini_batch_size=3))
    exact = _plain_gradients(encoder, torch.float64)
    dtype = torch.float32 if exact is None else torch.float64
    exact = exact or _plain_gradients(encoder, dtype) or {}
    encoder = encoder.to(dtype)
    return Tried(
        name=name,
        class_name=MODEL_FOR_MASKED_LM_MAPPING_NAMES[config.model_type],
        checkpointing=len(modes) == 2,
        position_limit=encoder.position_limit,
        dtype=dtype,
        vectors=_vector_difference(encoder),
        gradient=max(_gradient_difference(_gradients(encoder, memory), exact) for memory in modes),
    )


def save_model(config: PretrainedConfig, folder: Path) -> None:
    """A model with seeded random weights and without dropout."""
    for part in (config, *_parts(config)):
        for key, value in part.to_dict().items():
            if "drop" in key and isinstance(value, float):
                setattr(part, key, 0.0)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def can_be_planned(folder: Path) -> bool:
    """Whether the planner plans a training of a model that is not refused."""
    config = TrainConfig(batch_size=2, max_length=12)
    lengths, share = Lengths.full(config), 0.01
    request = PlanRequest(
        model_name=str(folder), config=config, device_type="cpu", budget_bytes=None, lengths=lengths, active_share=share
    )
    try:
        return make_plan(request).peak_bytes > 0
    except PlanError:  # it reads values, which a plan's tensors do not have
        return False


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    return (value for value in vars(config).values() if isinstance(value, PretrainedConfig))


class _Plain(nn.Module):
    """The whole model as an encoder: vectors are pooled logits, gradients are autograd's."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.device = torch.device("cpu")

    def forward(self, texts: TextBatch, **_: object) -> Tensor:
        logits = self.model(input_ids=texts.input_ids, attention_mask=texts.attention_mask).logits
        weights = torch.log1p(torch.relu(logits)) * texts.attention_mask.unsqueeze(-1)
        return weights.max(1).values

    def query_vectors(self, texts: TextBatch, **_: object) -> Tensor:
        vectors: Tensor = self(texts)
        return vectors


@torch.no_grad()
def _vector_difference(encoder: SpladeEncoder) -> float:
    texts = _batch(encoder).documents[0]
    ours = encoder.eval()(texts)
    with encoder.whole_model() as model:
        return float((_Plain(model)(texts) - ours).abs().max())


def _plain_gradients(encoder: SpladeEncoder, dtype: torch.dtype) -> Mapping[str, Tensor] | None:
    """Those of plain autograd; None if the architecture has none in float64, for some parts of it are in float32."""
    with encoder.whole_model() as model:
        plain = _Plain(copy.deepcopy(model)).to(dtype).train()
    try:
        direct_step(plain, _batch(encoder), SpladeLoss(TrainConfig()), StepContext())  # type: ignore[arg-type]
    except RuntimeError:
        if dtype == torch.float64:
            return None
        raise
    gradients = _gradients_by_name(plain.model)
    return gradients if all(gradient.isfinite().all() for gradient in gradients.values()) else None


def _gradient_difference(actual: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Largest of an element, relative to its tensor's largest; infinite if other parameters have a gradient."""
    if actual.keys() != exact.keys() or not exact:
        return float("inf")
    largest = {name: float(gradient.abs().max()) for name, gradient in exact.items()}
    floor = _FLOOR * max(largest.values())
    return max(float((actual[name] - exact[name]).abs().max()) / max(largest[name], floor) for name in exact)


def _gradients(encoder: SpladeEncoder, memory: MemoryConfig) -> Mapping[str, Tensor]:
    encoder = copy.deepcopy(encoder).train()
    encoder.configure(memory)
    gradcache_step(encoder, _batch(encoder), SpladeLoss(TrainConfig()), StepContext())
    with encoder.whole_model() as model:
        return _gradients_by_name(model)


def _gradients_by_name(model: nn.Module) -> Mapping[str, Tensor]:
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def _batch(encoder: SpladeEncoder) -> TripleBatch:
    groups = (_QUERY_LENGTHS, _DOCUMENT_LENGTHS, _DOCUMENT_LENGTHS[::-1])
    queries, *documents = (_texts(lengths, seed, encoder) for seed, lengths in enumerate(groups))
    return TripleBatch(queries, tuple(documents))


def _texts(lengths: Sequence[int], seed: int, encoder: SpladeEncoder) -> TextBatch:
    generator = torch.Generator().manual_seed(seed)
    # Not the last token: some architectures have it for images.
    sequences = [torch.randint(8, VOCAB_SIZE - 1, (length,), generator=generator).tolist() for length in lengths]
    return pad(sequences, pad_token_id=encoder.tokenizer.pad_token_id or 0)


def page(rows: Sequence[Tried]) -> str:
    """The document, in Markdown."""
    works = [_cells(row) for row in rows if row.refusal is None]
    headers = ["architecture", "class", "activation checkpointing", "plan", "table of positions", "vectors", "gradient"]
    refused = [[row.name, row.class_name, _reason(row)] for row in rows if row.refusal is not None]
    return f"""# Architectures

`python benchmarks/architecture_table.py docs/architectures.md` writes this page. It makes a small random model of every
architecture that transformers {transformers.__version__} has a masked-language model for, and loads it. A test
repeats that for the installed version. The page says nothing about how well an architecture learns.

## {len(works)} work

*Activation checkpointing*: without it, use `--no-activation-checkpointing`. *Plan*: without it, `plan` and `fit` end
with exit code 3, and `train` does not search for settings. *Table of positions*: with one, a larger `--max-length` is
refused. *Vectors*: the largest difference of an entry from the pooled logits of the whole model. *Gradient*: the
largest difference from plain autograd in the memory modes `memory-efficient` and `minimal-memory`, relative to the
largest element of its tensor. Both are in float64, where the architecture can compute in that. The weights are larger
than those of real models, and so is the rounding of float32.

{tabulate(works, headers, tablefmt="github", disable_numparse=True)}

## {len(refused)} are refused

`train`, `plan`, `fit` and `evaluate` end with exit code 2 and one line with the reason.

{tabulate(refused, ["architecture", "class", "reason"], tablefmt="github", disable_numparse=True)}
"""


def _cells(row: Tried) -> Sequence[str]:
    answers = [row.checkpointing, row.planned, row.position_limit is not None]
    gradient = f"{row.gradient:.0e}" + ("" if row.dtype == torch.float64 else " (float32)")
    return [
        row.name,
        row.class_name,
        *("yes" if answer else "no" for answer in answers),
        f"{row.vectors:.0e}",
        gradient,
    ]


def _reason(row: Tried) -> str:
    """The message without the folder and the advice."""
    message = " ".join((row.refusal or "").split())
    reason = message.partition(" because ")[2] or message.partition(": ")[2] or message
    reason = reason.removesuffix("; choose another architecture").replace("|", "/")
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"


def main(path: Path) -> None:
    """Try all architectures and write the page to ``path``."""
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = []
    for name, config in architectures().items():
        with TemporaryDirectory() as folder:
            tried = try_architecture(name, config, Path(folder))
            if tried.refusal is None:
                tried = replace(tried, planned=can_be_planned(Path(folder)))
            rows.append(tried)
    path.write_text(page(sorted(rows, key=lambda row: row.name)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
