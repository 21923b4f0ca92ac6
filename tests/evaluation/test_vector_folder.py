"""A folder of vectors: complete or absent, read from the disk, and refused if it is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splade_bench.errors import DataError
from splade_bench.evaluation.encoding import Window
from splade_bench.evaluation.vector_folder import VectorManifest, read_vectors, write_vectors
from splade_bench.evaluation.vectors import SparseReps

MANIFEST = VectorManifest(version=1, kind="documents", model_name="some/model", max_length=16, vocab_size=32)


def window(ids: Sequence[str], dense: torch.Tensor) -> Window:
    return Window(ids, SparseReps.from_dense([dense]), 0)


def random_sparse(rows: int) -> torch.Tensor:
    values = torch.rand(rows, 32, generator=torch.Generator().manual_seed(rows))
    return torch.where(values > 0.7, values, torch.zeros(()))


@pytest.fixture
def dense() -> torch.Tensor:
    dense = random_sparse(9)
    dense[3] = 0
    return dense


@pytest.fixture
def folder(tmp_path: Path, dense: torch.Tensor) -> Path:
    ids = [f"d{number}" for number in range(8)] + ["line\nbreak \u2028 é"]
    write_vectors(tmp_path / "vectors", [window(ids[:4], dense[:4]), window(ids[4:], dense[4:])], MANIFEST)
    return tmp_path / "vectors"


def test_vectors_come_back_from_the_disk_as_they_were(folder: Path, dense: torch.Tensor) -> None:
    read = read_vectors(folder)

    assert read.ids == [*(f"d{number}" for number in range(8)), "line\nbreak \u2028 é"]
    assert torch.equal(read.reps.dense(0, 9), dense)
    assert read.manifest == replace(MANIFEST, rows=9, active_entries=int(dense.count_nonzero()))
    assert [np.load(folder / f"{name}.npy").dtype for name in ("values", "entries", "row_starts")] == ["f4", "i4", "i8"]


def test_values_stay_on_the_disk(folder: Path) -> None:
    values = np.load(folder / "values.npy", mmap_mode="r+")
    read = read_vectors(folder)
    values[0] = 7.5
    values.flush()

    assert read.reps.values[0] == 7.5


@pytest.mark.parametrize("rows", [0, 3])
def test_vectors_without_entries_can_be_written_and_read(tmp_path: Path, rows: int) -> None:
    windows = [window([str(row) for row in range(rows)], torch.zeros(rows, 32))] if rows else []
    write_vectors(tmp_path / "vectors", windows, MANIFEST)

    read = read_vectors(tmp_path / "vectors")

    assert len(read.ids) == len(read.reps) == rows
    assert read.reps.dense(0, rows).count_nonzero() == 0


def test_what_ends_the_encoding_leaves_no_folder(tmp_path: Path, dense: torch.Tensor) -> None:
    def windows() -> Iterator[Window]:
        yield window(["a"], dense[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path / "vectors", windows(), MANIFEST)

    assert list(tmp_path.iterdir()) == []


def shorten(path: Path, removed: int = 4) -> None:
    path.write_bytes(path.read_bytes()[:-removed])


def change(path: Path, place: int, number: int) -> None:
    numbers = np.load(path)
    numbers[place] = number
    np.save(path, numbers)


def test_another_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    for name in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"has no vectors.json; make such a folder with splade-bench encode$"):
            read_vectors(name)
    manifest = json.loads((folder / "vectors.json").read_text())
    (folder / "vectors.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(DataError, match="has version 2, not 1; encode the texts again"):
        read_vectors(folder)
    (folder / "vectors.json").write_text("{}")
    with pytest.raises(DataError, match=r"vectors.json: Object missing required field"):
        read_vectors(folder)


@pytest.mark.parametrize("name", ["values.npy", "entries.npy", "row_starts.npy", "ids.jsonl"])
@pytest.mark.parametrize("fault", ["missing", "cut off"])
def test_a_damaged_folder_is_refused(folder: Path, name: str, fault: str) -> None:
    if fault == "missing":
        (folder / name).unlink()
    else:
        shorten(folder / name)

    with pytest.raises(DataError, match=r"vectors: is damaged: .*; encode the texts again$") as raised:
        read_vectors(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "place", "number"),
    [("entries.npy", 5, 32), ("entries.npy", 5, -1), ("row_starts.npy", 2, 10**6), ("row_starts.npy", -1, 1)],
)
def test_numbers_that_a_product_would_read_outside_of_memory_are_refused(
    folder: Path, name: str, place: int, number: int
) -> None:
    change(folder / name, place, number)

    with pytest.raises(DataError, match="is damaged: its files do not belong together"):
        read_vectors(folder)


def test_pickled_numbers_are_not_read(folder: Path) -> None:
    np.save(folder / "values.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(DataError, match="is damaged"):
        read_vectors(folder)
