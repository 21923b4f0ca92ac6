"""The embedded corpus prepared once on disk, with the tokenizers trained on it."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from splade_bench.data.docstrings import DocstringPair, Split, harvest, retrieval_dataset, train_triples
from splade_bench.data.records import Corpus, RetrievalDataset, Triple, held_out_triples, sha256_of_texts
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.errors import ConfigError
from splade_bench.files import remove_whole, whole_folder, write_whole_file

_CORPUS_NAME = "corpus.json"

# Part of the cache key. Raise it if the harvest, the split, the negatives or the tokenizer change.
PREPARATION_VERSION = 2


def embedded_corpus(pairs: Sequence[DocstringPair] | None = None, split: Split = "test") -> Corpus:
    """The docstring corpus, evaluated on ``split``; harvested now unless ``pairs`` are given.

    Tune settings on ``development``: then test pairs are left out altogether. For ``test``, training has the
    development pairs too.
    """
    pairs = harvest() if pairs is None else pairs
    if split == "development":
        pairs = [pair for pair in pairs if pair.split != "test"]
    training_pairs = [pair for pair in pairs if pair.split != split]
    triples = train_triples(training_pairs)
    dataset = retrieval_dataset(pairs, split)
    return Corpus(
        triples=triples,
        test=dataset,
        test_triples=held_out_triples(dataset),
        sha256=_sha256(triples, dataset),
    )


def _sha256(triples: Sequence[Triple], dataset: RetrievalDataset) -> str:
    # Fields that Triple got later are left out: they are empty here, and the hash stays the same.
    texts = [{"query": one.query, "positive": one.positive, "negatives": one.negatives} for one in triples]
    return sha256_of_texts(texts, asdict(dataset))


class PreparedCorpus:
    """A folder with the embedded corpus and its tokenizers, made once and read by every process.

    It is written under another name and then renamed, so it is never incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def prepare(cls, cache: Path, vocab_sizes: Sequence[int]) -> PreparedCorpus:
        """The prepared corpus of this interpreter below ``cache``, made if it is missing.

        Raises:
            ConfigError: the corpus cannot be written there.
        """
        key = sha256_of_texts(PREPARATION_VERSION, sys.version, sysconfig.get_path("stdlib"))[:16]
        prepared = cls(cache / f"docstrings-{key}")
        try:
            prepared._make(vocab_sizes)
        except OSError as error:
            raise ConfigError(
                f"{cache}: the embedded corpus cannot be kept there ({error.strerror}); set SPLADE_BENCH_CACHE to a "
                "folder that you can write to"
            ) from error
        return prepared

    def _make(self, vocab_sizes: Sequence[int]) -> None:
        """Make what is missing or damaged; raises OSError if it cannot be written."""
        if not self._is_sound():
            if self._corpus_path.is_file():
                remove_whole(self.folder)
            with whole_folder(self.folder) as folder:
                (folder / _CORPUS_NAME).write_bytes(msgspec.json.encode(embedded_corpus()))
            self._corpus_path.stat()  # missing if there already was a folder of this name with something else in it
        for vocab_size in vocab_sizes:
            path = self.tokenizer_path(vocab_size)
            if not path.is_file():
                tokenizer = train_tokenizer(self.load().training_texts, vocab_size=vocab_size)
                write_whole_file(path, tokenizer.to_str())

    def _is_sound(self) -> bool:
        """Whether the corpus is there, with the texts that its hash is of."""
        try:
            corpus = self.load()
        except (OSError, msgspec.MsgspecError):
            return False
        return corpus.test is not None and corpus.sha256 == _sha256(corpus.triples, corpus.test)

    @property
    def _corpus_path(self) -> Path:
        return self.folder / _CORPUS_NAME

    def tokenizer_path(self, vocab_size: int) -> Path:
        return self.folder / f"tokenizer-{vocab_size}.json"

    def load(self) -> Corpus:
        return msgspec.json.decode(self._corpus_path.read_bytes(), type=Corpus)

    def load_tokenizer(self, vocab_size: int) -> Tokenizer:
        return Tokenizer.from_file(str(self.tokenizer_path(vocab_size)))
