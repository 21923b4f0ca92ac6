"""A folder of sparse vectors: written as they come, complete or absent, and read without loading them.

``values.npy`` (float32), ``entries.npy`` (int32) and ``row_starts.npy`` (int64) are a sparse matrix in compressed rows,
``ids.jsonl`` has the id of each row, a JSON string a line, and ``vectors.json`` says what the vectors are.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from splade_bench.batching.prompts import TextKind
from splade_bench.errors import DataError, error_line
from splade_bench.evaluation.encoding import Window
from splade_bench.evaluation.vectors import SparseReps
from splade_bench.files import replaced_folder
from splade_bench.json_records import json_text, parse_record
from splade_bench.model.encoder import SpladeEncoder

MANIFEST = "vectors.json"
FORMAT_VERSION = 1
_VALUES, _ENTRIES, _ROW_STARTS, _IDS = "values.npy", "entries.npy", "row_starts.npy", "ids.jsonl"
# Entries that are checked at a time.
_CHECKED = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorManifest:
    """What the vectors of a folder are."""

    version: int
    kind: TextKind
    model_name: str
    max_length: int
    vocab_size: int
    rows: int = 0
    active_entries: int = 0

    @classmethod
    def of(cls, encoder: SpladeEncoder, kind: TextKind, *, model_name: str, max_length: int) -> VectorManifest:
        """Of vectors that ``encoder`` makes, before they are counted."""
        return cls(
            version=FORMAT_VERSION,
            kind=kind,
            model_name=model_name,
            max_length=max_length,
            vocab_size=encoder.vocab_size,
        )


@dataclass(frozen=True, slots=True)
class VectorFolder:
    """Vectors on the disk, mapped into memory, with the ids of their rows."""

    manifest: VectorManifest
    ids: Sequence[str]
    reps: SparseReps


def write_vectors(folder: Path, windows: Iterable[Window], manifest: VectorManifest) -> VectorManifest:
    """Write a new folder from windows of vectors; the manifest with its numbers of rows and entries.

    Memory: a window, and 8 bytes for each row.

    Raises:
        OSError: it cannot be written; nothing is left of it then.
    """
    row_starts = array("q", [0])
    with replaced_folder(folder) as unfinished:
        with (
            (unfinished / _VALUES).open("w+b") as values,
            (unfinished / _ENTRIES).open("w+b") as entries,
            (unfinished / _IDS).open("w", encoding="utf-8") as ids,
        ):
            for file, dtype in ((values, "<f4"), (entries, "<i4")):
                _write_header(file, dtype, 0)
            for window in windows:
                ids.writelines(json.dumps(text_id) + "\n" for text_id in window.ids)
                values.write(window.reps.values.numpy().astype("<f4").tobytes())
                entries.write(window.reps.entries.numpy().astype("<i4").tobytes())
                row_starts.extend((window.reps.row_starts[1:] + row_starts[-1]).tolist())
            for file, dtype in ((values, "<f4"), (entries, "<i4")):
                file.seek(0)
                _write_header(file, dtype, row_starts[-1])
        np.save(unfinished / _ROW_STARTS, np.asarray(row_starts, dtype="<i8"), allow_pickle=False)
        numbers = {"rows": len(row_starts) - 1, "active_entries": row_starts[-1]}
        complete = VectorManifest(**{**asdict(manifest), **numbers})
        (unfinished / MANIFEST).write_text(json_text(complete) + "\n", encoding="utf-8")
    return complete


def read_vectors(folder: Path) -> VectorFolder:
    """Open a folder of vectors; entries and values stay on the disk until they are used.

    Memory: ids, and 8 bytes for each row.

    Raises:
        DataError: there is no such folder, or it is damaged.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: has no {MANIFEST}; make such a folder with splade-bench encode") from error
    try:
        manifest = parse_record(json.loads(text), VectorManifest)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / MANIFEST}: {error_line(error)}; encode the texts again") from error
    if manifest.version != FORMAT_VERSION:
        raise DataError(f"{folder}: has version {manifest.version}, not {FORMAT_VERSION}; encode the texts again")
    try:
        ids = [str(json.loads(line)) for line in (folder / _IDS).read_text(encoding="utf-8").splitlines()]
        values, entries = _mapped(folder / _VALUES, "<f4"), _mapped(folder / _ENTRIES, "<i4")
        row_starts = np.array(_mapped(folder / _ROW_STARTS, "<i8"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder}: is damaged: {error_line(error)}; encode the texts again") from error
    sizes = {manifest.rows, len(ids), len(row_starts) - 1}, {manifest.active_entries, len(values), len(entries)}
    if any(len(size) > 1 for size in sizes) or not _is_sparse_matrix(row_starts, entries, manifest.vocab_size):
        raise DataError(f"{folder}: is damaged: its files do not belong together; encode the texts again")
    parts = [torch.from_numpy(part) for part in (row_starts, entries, values)]
    reps = SparseReps(parts[0], parts[1], parts[2], manifest.vocab_size)
    return VectorFolder(manifest, ids, reps)


def _write_header(file: IO[bytes], dtype: str, length: int) -> None:
    """The header of an .npy file of numbers. numpy pads it so that its size is the same for every length."""
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": (length,)})


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    # Copy on write: torch takes no array that cannot be written.
    numbers = np.load(path, mmap_mode="c", allow_pickle=False)
    if numbers.dtype != dtype or numbers.ndim != 1:
        raise ValueError(f"{path.name} does not hold {np.dtype(dtype)} numbers in one row")
    return np.asarray(numbers)


def _is_sparse_matrix(row_starts: NDArray[np.int64], entries: NDArray[np.int32], vocab_size: int) -> bool:
    """Whether a product cannot read outside of memory."""
    if row_starts[0] != 0 or row_starts[-1] != len(entries) or (np.diff(row_starts) < 0).any():
        return False
    parts = (entries[start : start + _CHECKED] for start in range(0, len(entries), _CHECKED))
    return all(part.min() >= 0 and part.max() < vocab_size for part in parts)
