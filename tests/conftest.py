"""Small real objects that tests share: a model that costs nothing and a corpus of a few dozen texts."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from splade_bench.data.records import Triple
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset

# Projects of their own, which tests copy and run.
collect_ignore = ["support/foreign_project", "support/foreign_suites"]

# The toy's tensors are too small to share among threads, and waiting threads slow each other down.
torch.set_num_threads(1)

_SUBJECTS = ("parser", "socket", "buffer", "thread", "window", "archive", "cursor", "matrix")
_ACTIONS = ("opens", "closes", "copies", "splits")
TOY_MAX_LENGTH = 16


def pytest_collection_finish() -> None:
    """Exclude the objects of all imports from later garbage collections: some modes collect after every few batches."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def triples() -> list[Triple]:
    """32 triples whose positives answer their queries word for word, at different lengths."""
    made = []
    for number, (subject, action) in enumerate(itertools.product(_SUBJECTS, _ACTIONS)):
        wrong = _SUBJECTS[(number // len(_ACTIONS) + 1) % len(_SUBJECTS)]
        tail = " with a name and a size" * (number % 3)
        made.append(
            Triple(
                query=f"who {action} the {subject}",
                positive=f"this function {action} the {subject}{tail}",
                negatives=(f"this function {action} the {wrong}", f"the {wrong} is old"),
            )
        )
    return made


@pytest.fixture(scope="session")
def scored(triples: Sequence[Triple]) -> list[Triple]:
    """Triples with a teacher; two of three share their answer with another one."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, triple in enumerate(triples):
        answer = triples[number - number % 3].positive if number % 3 < 2 else triple.positive
        scores = torch.rand(1 + len(triple.negatives), generator=generator).mul(4).tolist()
        made.append(replace(triple, positive=answer, teacher_scores=tuple(scores)))
    return made


@pytest.fixture(scope="session")
def tokenizer(triples: Sequence[Triple]) -> Tokenizer:
    texts = [text for triple in triples for text in (triple.query, triple.positive, *triple.negatives)]
    return train_tokenizer(texts, vocab_size=512)


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> SpladeEncoder:
    return build_preset("toy", tokenizer, seed=0)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the embedded corpus that the whole session shares."""
    return tmp_path_factory.getbasetemp() / "splade-bench-cache"
