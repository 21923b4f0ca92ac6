"""The corpus, the encoder and the tokenizer that a command line names."""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from splade_bench.cli.flags import Placement, TrainFlags
from splade_bench.config import MODEL_PRESETS
from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.records import Corpus
from splade_bench.data.training_formats import TrainFormat
from splade_bench.data.wordpiece import inverse_document_frequencies, train_tokenizer
from splade_bench.errors import ConfigError
from splade_bench.model import loading
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.known_words import require_known_words
from splade_bench.model.presets import build_preset, wrap_tokenizer
from splade_bench.starts import PACKAGED_MODELS
from splade_bench.training.checkpoints import MANIFEST, Checkpoint

logger = logging.getLogger(__name__)


def load_corpus(
    train_file: Path | None,
    val_file: Path | None,
    *,
    need_negatives: bool,
    need_teacher: bool = False,
    skip_bad_records: bool = False,
    train_format: TrainFormat = "auto",
) -> Corpus:
    """The corpus of the given files, or the embedded one.

    Raises:
        ConfigError: there is a validation file but no training file.
        DataError: a file cannot be read; or a record of ``train_file`` cannot be used, or has no negatives and
            ``need_negatives`` is set, unless ``skip_bad_records``.
    """
    if train_file is not None:
        try:
            cache = cache_folder()
        except RuntimeError:  # there is no home folder
            cache = None
        return file_corpus(
            train_file,
            val_file,
            need_negatives=need_negatives,
            need_teacher=need_teacher,
            skip_bad_records=skip_bad_records,
            train_format=train_format,
            cache=cache,
        )
    if train_format != "auto":
        raise ConfigError(f"--train-format {train_format} has no effect without --train-file; name a file or folder")
    if val_file is not None:
        raise ConfigError("--val-file needs --train-file; without both, the embedded corpus is used")
    try:
        cache = cache_folder()
    except RuntimeError as error:
        raise ConfigError(
            "the embedded corpus needs a folder, and this user has no home; set SPLADE_BENCH_CACHE to a folder"
        ) from error
    return PreparedCorpus.prepare(cache, []).load()


def corpus_of(command: TrainFlags) -> Corpus:
    """The corpus of a command line, with the errors of :func:`load_corpus`."""
    return load_corpus(
        command.train_file,
        command.val_file,
        need_negatives=command.config.negatives_per_query > 0,
        need_teacher=command.config.needs_teacher,
        skip_bad_records=command.faults.skip_bad_records,
        train_format=command.train_format,
    )


def load_encoder(model_name: str, corpus: Corpus | None, *, seed: int, needs_head: bool = True) -> SpladeEncoder:
    """A preset with random weights and a vocabulary made from ``corpus``, or a pretrained model by path or Hub id.

    Without ``needs_head``, a pretrained model that has no trained head gets a random one.

    Raises:
        ConfigError: the model cannot be loaded, does not know the words of ``corpus``, or is a preset without a corpus.
        DataError: the folder of the model is a checkpoint that is damaged.
    """
    transformers_logging.disable_progress_bar()
    if model_name in (*MODEL_PRESETS, *PACKAGED_MODELS) and (Path(model_name) / "config.json").is_file():
        kind = "a preset with random weights" if model_name in MODEL_PRESETS else "a packaged model"
        logger.warning("--model-name %s is %s, not the folder here: ./%s names that", model_name, kind, model_name)
    if model_name not in MODEL_PRESETS:
        require_undamaged(model_name)
        encoder = SpladeEncoder.from_pretrained(model_name, needs_head=needs_head)
        if corpus is not None:
            texts = (triple.positive for triple in corpus.triples)
            require_known_words(encoder.tokenizer, texts, model_name=model_name)
        return encoder
    if corpus is None:
        raise ConfigError(f"--model-name {model_name}: a preset has random weights; name the folder of a trained model")
    vocab_size = MODEL_PRESETS[model_name].vocab_size
    tokenizer = train_tokenizer(corpus.training_texts, vocab_size=vocab_size)
    idf = inverse_document_frequencies(tokenizer, corpus.training_documents, vocab_size=vocab_size)
    return build_preset(model_name, tokenizer, seed=seed, inverse_document_frequencies=idf)


def give_static_queries(encoder: SpladeEncoder, corpus: Corpus) -> None:
    """Let queries have a weight for each token, which starts as its inverse document frequency in the training data.

    Raises:
        ConfigError: the model's tokenizer is one that counts tokens too slowly for that.
    """
    if not encoder.tokenizer.is_fast:
        raise ConfigError("--query-encoder static needs a model with a fast tokenizer; choose another model")
    counting = copy.deepcopy(encoder.tokenizer.backend_tokenizer)  # whole documents, whatever was cut before
    counting.no_truncation()
    counting.no_padding()
    frequencies = inverse_document_frequencies(counting, corpus.training_documents, vocab_size=encoder.vocab_size)
    encoder.use_static_queries(torch.tensor(frequencies))


def placed_encoder(model_name: str, placement: Placement, max_length: int | None) -> tuple[SpladeEncoder, int]:
    """A trained model on its device, to encode with, and the tokens after which it cuts a text.

    Raises:
        ConfigError: the model cannot be loaded, or has not so many positions.
        DataError: the folder of the model is a checkpoint that is damaged.
    """
    device = placement.resolve()
    encoder = load_encoder(model_name, None, seed=0).to(device)
    encoder.configure(placement.memory)
    max_length = max_length or encoder.max_length
    encoder.require_positions(max_length)
    return encoder, max_length


def from_anywhere(model_name: str) -> str:
    """A model's name that means the same in every working folder."""
    folder = Path(model_name)
    return str(folder.resolve()) if folder.is_dir() else model_name


def load_tokenizer(model_name: str, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer that an encoder from :func:`load_encoder` has.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
        DataError: the folder of the model is a checkpoint that is damaged.
    """
    if model_name in MODEL_PRESETS:
        vocab_size = MODEL_PRESETS[model_name].vocab_size
        return wrap_tokenizer(train_tokenizer(corpus.training_texts, vocab_size=vocab_size))
    require_undamaged(model_name)
    return loading.load_tokenizer(model_name)


def require_undamaged(model_name: str) -> None:
    """Compare the files of a model with the manifest of a checkpoint, if its folder has one.

    Raises:
        DataError: a file is damaged; the message names it.
    """
    folder = Path(model_name)
    if os.path.lexists(folder / MANIFEST):
        Checkpoint.at(folder).verify()


def cache_folder() -> Path:
    """The folder of the embedded corpus and of files' indexes: SPLADE_BENCH_CACHE, or one in the user's cache."""
    named = os.environ.get("SPLADE_BENCH_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splade_bench"
