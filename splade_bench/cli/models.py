"""What the verbs share: which corpus, which model, which device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from splade_bench.config import DEFAULT_MEMORY_MODE, MODEL_PRESETS, DeviceName, MemoryConfig, memory_mode
from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.formats import file_corpus
from splade_bench.data.records import Corpus
from splade_bench.data.wordpiece import inverse_document_frequencies, train_tokenizer
from splade_bench.device.devices import resolve_device
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder, load_config
from splade_bench.model.presets import build_preset, wrap_tokenizer

# Of a tokenizer that is never asked.
_BLANK_VOCAB_SIZE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The flags that say where and how to compute, common to train and evaluate."""

    device: DeviceName = "auto"
    """auto: mps, then cuda, then cpu. In place of a missing one the best that is there is taken, with a warning."""
    force_device: bool = False
    """Make a missing --device an error."""
    memory_mode: str | None = None
    """standard, article, memory-efficient (the default) or minimal-memory, alone or with +TECHNIQUE or
    -without-TECHNIQUE; the flags for single settings then change it."""
    memory_efficient: bool = False
    """Short for --memory-mode memory-efficient."""
    memory_tracking: bool = False
    """Log current and peak memory, and for train draw its timeline with the phases of the run."""
    json: bool = False
    """Print one JSON object on standard output; messages go to standard error."""

    @property
    def memory_row(self) -> MemoryConfig:
        """The row of memory settings that the flags name."""
        if self.memory_efficient and self.memory_mode not in (None, DEFAULT_MEMORY_MODE):
            raise ConfigError(f"--memory-efficient contradicts --memory-mode {self.memory_mode}; give one of them")
        return memory_mode(self.memory_mode or DEFAULT_MEMORY_MODE)

    def resolve(self) -> torch.device:
        """The device to compute on."""
        return resolve_device(self.device, force=self.force_device)


def load_corpus(train_file: Path | None, val_file: Path | None, *, need_negatives: bool) -> Corpus:
    """The corpus of the given files, or the embedded one; ``need_negatives`` for each query of the first."""
    if train_file is not None:
        return file_corpus(train_file, val_file, need_negatives=need_negatives)
    if val_file is not None:
        raise ConfigError("--val-file needs --train-file; without both, the embedded corpus is used")
    return PreparedCorpus.prepare(cache_folder(), []).load()


def load_encoder(model_name: str, corpus: Corpus | None, *, seed: int) -> SpladeEncoder:
    """A preset with random weights and a vocabulary of ``corpus``, or a pretrained model by path or Hub id."""
    transformers_logging.disable_progress_bar()
    if model_name not in MODEL_PRESETS:
        return SpladeEncoder.from_pretrained(model_name)
    if corpus is None:
        raise ConfigError(f"--model-name {model_name}: a preset has nothing to evaluate before it is trained")
    vocab_size = MODEL_PRESETS[model_name].vocab_size
    tokenizer = train_tokenizer(corpus.training_texts, vocab_size=vocab_size)
    documents = list(dict.fromkeys(triple.positive for triple in corpus.triples))
    idf = inverse_document_frequencies(tokenizer, documents, vocab_size=vocab_size)
    return build_preset(model_name, tokenizer, seed=seed, inverse_document_frequencies=idf)


def load_tokenizer(model_name: str, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer with which :func:`load_encoder` would train on ``corpus``."""
    if model_name in MODEL_PRESETS:
        vocab_size = MODEL_PRESETS[model_name].vocab_size
        return wrap_tokenizer(train_tokenizer(corpus.training_texts, vocab_size=vocab_size))
    return SpladeEncoder.load_tokenizer(model_name)


def planned_encoder(model_name: str) -> Callable[[], SpladeEncoder]:
    """How to make an encoder like that of :func:`load_encoder` where tensors are fake.

    Raises:
        ConfigError: there is no such model.
    """
    if model_name in MODEL_PRESETS:
        tokenizer = train_tokenizer((), vocab_size=MODEL_PRESETS[model_name].vocab_size)
        return lambda: build_preset(model_name, tokenizer, seed=0)
    config, blank = load_config(model_name), wrap_tokenizer(train_tokenizer((), vocab_size=_BLANK_VOCAB_SIZE))
    return lambda: SpladeEncoder.from_config(config, blank)


def cache_folder() -> Path:
    """Where the embedded corpus is kept: SPLADE_BENCH_CACHE, or a folder in the user's cache."""
    named = os.environ.get("SPLADE_BENCH_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splade_bench"
