"""``splade-bench encode``: the sparse vectors of a collection's texts, in a folder."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from splade_bench.batching.prompts import TextKind
from splade_bench.cli.arguments import parse, show
from splade_bench.cli.flags import Placement
from splade_bench.cli.places import require_place
from splade_bench.cli.signals import removed_at_the_end
from splade_bench.cli.sources import from_anywhere, placed_encoder
from splade_bench.config import MIN_MAX_LENGTH
from splade_bench.data.text_files import read_text_file, text_file
from splade_bench.errors import ConfigError
from splade_bench.evaluation.encoding import Window, encode_windows
from splade_bench.evaluation.vector_folder import MANIFEST, VectorManifest, write_vectors
from splade_bench.evaluation.vector_lines import LINE_FORMATS, VECTOR_LINES, write_vector_lines
from splade_bench.fields import require_range
from splade_bench.files import not_written
from splade_bench.measure.rss import PeakRss, known_rss_bytes
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.known_words import require_known_words

logger = logging.getLogger(__name__)

# Texts after which a line says how far it is.
_LOGGED_EVERY = 20_480
_SAMPLED_TEXTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeCommand:
    """Write the sparse vectors of texts into a folder, for splade-bench search or for a search engine.

    Exit codes:
      0  done
      1  the encoding failed, such as for vectors that are not finite
      2  usage error or bad file
      128 + n  ended by signal n, such as 143 for SIGTERM; what is not complete is removed
    """

    model_name: str
    """A local model folder, or a Hugging Face Hub id."""
    input: Path
    """A BEIR folder; a file of JSON Lines with _id, title and text; TSV with an id and a text on each line; or a file
    with a text on each line. Files may be compressed with gzip."""
    output_dir: Path
    """The folder to write. It is complete, or it is not there."""
    kind: TextKind = "documents"
    """What the texts are. It also names the file of a BEIR folder."""
    format: Literal["matrix", "features", "qdrant", "anserini"] = "matrix"
    """matrix: a sparse matrix, for search. JSON Lines: features for fields of OpenSearch and Elasticsearch, points for
    Qdrant, documents with whole weights for Anserini."""
    overwrite: bool = False
    """Replace vectors that an earlier run wrote to --output-dir."""
    batch_size: int | None = None
    """Texts to encode at once. None: 32, or fewer if --max-length is above 128."""
    max_length: int | None = None
    """Cut texts after this many tokens. None: as in the model's training."""
    json: bool = False
    """Print one JSON object to standard output. Messages go to standard error."""
    placement: Placement = field(default_factory=Placement)
    """Where to compute. --memory-mode and --memory-efficient have no effect here: they change training only."""


def run(arguments: Sequence[str]) -> int:
    """Encode and say what was written; the exit code."""
    command = parse(EncodeCommand, arguments, verb="encode")
    require_range(command, "batch_size", at_least=1)
    require_range(command, "max_length", at_least=MIN_MAX_LENGTH)
    _require_free(command)
    texts = read_text_file(text_file(command.input, queries=command.kind == "queries"))
    sample = list(itertools.islice(texts, _SAMPLED_TEXTS))  # a file that cannot be read is found out before the model
    encoder, max_length = placed_encoder(command.model_name, command.placement, command.max_length)
    require_known_words(encoder.tokenizer, (text for _, text in sample), model_name=command.model_name)
    model_rss_bytes = known_rss_bytes()
    peak_rss = PeakRss()
    peak_rss.start()
    windows = encode_windows(
        encoder, itertools.chain(sample, texts), command.kind, max_length=max_length, batch_size=command.batch_size
    )
    try:
        with removed_at_the_end():
            rows, active_entries = _write(command, encoder, max_length, windows)
    except OSError as error:
        raise ConfigError(f"--output-dir {command.output_dir}: {not_written(command.output_dir, error)}") from error
    peak = peak_rss.read()
    record: dict[str, Any] = {
        "model_name": command.model_name,
        "input": str(command.input),
        "kind": command.kind,
        "format": command.format,
        "rows": rows,
        "active_entries": active_entries,
        "max_length": max_length,
        "device": encoder.device.type,
        "model_rss_bytes": model_rss_bytes,
        "peak_rss_bytes": peak.peak_bytes,
        "peak_rss_source": peak.source,
    }
    mean = active_entries / max(1, rows)
    show(record, f"{command.output_dir}: {rows} {command.kind}, {mean:.1f} active dims each", as_json=command.json)
    return 0


def _require_free(command: EncodeCommand) -> None:
    """Refuse an output folder that is not an earlier run's, or that may not be replaced.

    Raises:
        ConfigError: it is one.
    """
    folder = command.output_dir
    if not os.path.lexists(folder):
        require_place("--output-dir", folder)
        return
    is_empty = folder.is_dir() and not any(folder.iterdir())
    is_ours = folder.is_dir() and any((folder / name).is_file() for name in (MANIFEST, VECTOR_LINES))
    if not is_empty and not is_ours:
        raise ConfigError(f"--output-dir {folder}: exists, and splade-bench encode did not write it; name another one")
    if is_ours and not command.overwrite:
        raise ConfigError(f"--output-dir {folder}: has vectors already; name another folder, or add --overwrite")


def _write(
    command: EncodeCommand, encoder: SpladeEncoder, max_length: int, windows: Iterable[Window]
) -> tuple[int, int]:
    """Write the folder; its rows and active entries."""
    rows = active_entries = 0

    def counted() -> Iterator[Window]:
        nonlocal rows, active_entries
        for window in windows:
            rows, before = rows + len(window.ids), rows
            active_entries += len(window.reps.entries)
            if rows // _LOGGED_EVERY > before // _LOGGED_EVERY:
                logger.info("%d %s encoded", rows, command.kind)
            yield window

    if command.format == "matrix":
        model_name = from_anywhere(command.model_name)
        manifest = VectorManifest.of(encoder, command.kind, model_name=model_name, max_length=max_length)
        write_vectors(command.output_dir, counted(), manifest)
    else:
        write_vector_lines(command.output_dir, counted(), LINE_FORMATS[command.format], _entry_names(encoder))
    return rows, active_entries


def _entry_names(encoder: SpladeEncoder) -> list[str]:
    """The token of each entry of the vocabulary; a model may have more entries than its tokenizer has tokens."""
    tokens = encoder.tokenizer.convert_ids_to_tokens(list(range(encoder.vocab_size)))
    return [token or f"[{entry}]" for entry, token in enumerate(tokens)]
