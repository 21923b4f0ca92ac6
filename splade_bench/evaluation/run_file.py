"""Rankings as a TREC run: query, ``Q0``, document, rank, score and the name of the run in each line. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from splade_bench.errors import ConfigError
from splade_bench.evaluation.metrics import Ranking
from splade_bench.files import not_written, whole_file

_RUN_NAME = "splade_bench"
_SPACE = re.compile(r"\s")


def run_lines(ranking: Ranking) -> Iterator[str]:
    """The lines of a ranking, which is best first. Scores fall from line to line: every program reads this order.

    Raises:
        ConfigError: an id has a space in it, or is empty.
    """
    query_id, documents = ranking
    for rank, (document_id, score) in enumerate(distinct_scores(documents).items(), 1):
        require_run_ids((query_id, document_id))
        # Nine digits are the same float32 again.
        yield f"{query_id} Q0 {document_id} {rank} {score:.9g} {_RUN_NAME}\n"


def require_run_ids(text_ids: Iterable[str]) -> None:
    """Check ids of queries or documents before rankings of them are computed.

    Raises:
        ConfigError: an id has a space in it, or is empty.
    """
    for text_id in text_ids:
        if not text_id or _SPACE.search(text_id):
            raise ConfigError(f"a TREC run cannot have the id {text_id!r}; give ids without spaces")


@contextmanager
def run_file(path: Path) -> Iterator[Callable[[Ranking], None]]:
    """Write rankings to a file, one by one. It gets its name when the block ends without an error.

    Raises:
        ConfigError: it cannot be written there.
    """
    if path.is_dir():
        raise ConfigError(f"--run-file {path}: is a folder; name a file")
    with ExitStack() as opened:
        try:
            file = opened.enter_context(whole_file(path))
        except OSError as error:
            raise ConfigError(f"--run-file {path}: {not_written(path, error)}") from error
        yield lambda ranking: file.writelines(run_lines(ranking))


def distinct_scores(documents: Mapping[str, float]) -> dict[str, float]:
    """Scores that fall from one document to the next, in float32: an equal score becomes the next smaller number.

    So every program reads the same order, whatever it does with equal scores.
    """
    scores = np.fromiter(documents.values(), np.float32, len(documents))
    if len(scores) > 1 and not (np.diff(scores) < 0).all():
        for place in range(1, len(scores)):
            scores[place] = min(scores[place], np.nextafter(scores[place - 1], np.float32(-np.inf)))
    return dict(zip(documents, scores.tolist(), strict=True))
