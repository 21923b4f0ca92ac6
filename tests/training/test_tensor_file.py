"""Tensors written as a stream are what safetensors reads, in the memory of one piece."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from splade_bench.errors import DataError, NotFiniteError
from splade_bench.training.tensor_file import PIECE_ELEMENTS, StreamedTensor, TensorReader, write_tensors

MANY = 2 * PIECE_ELEMENTS + 5
# Writes and reads 128 MiB; prints by how many MiB that raised the process's peak.
PEAK = """
import resource, sys
from pathlib import Path
import torch
from splade_bench.training.tensor_file import PIECE_ELEMENTS, StreamedTensor, TensorReader, write_tensors

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

def write(name, pieces):
    buffer = torch.empty(PIECE_ELEMENTS)
    shape = pieces, PIECE_ELEMENTS
    stream = StreamedTensor("a", torch.float32, shape, lambda: (buffer.fill_(number) for number in range(pieces)))
    write_tensors(Path(sys.argv[1]) / name, [stream], require_finite=True)
    with TensorReader(Path(sys.argv[1]) / name) as reader:
        assert [float(piece[-1]) for piece in reader.pieces("a")] == list(range(pieces))

write("small", 2)
before = peak_mib()
write("large", 32)
print(peak_mib() - before)
"""


@pytest.fixture
def tensors() -> Mapping[str, Tensor]:
    """All types, and shapes that are easy to get wrong."""
    torch.manual_seed(0)
    return {
        "bool": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "bfloat16": torch.randn(3, 5).bfloat16(),
        "float16": torch.randn(7).half(),
        "float32": torch.randn(MANY),
        "float64": torch.randn(3, dtype=torch.float64),
        "int8": torch.tensor([-1], dtype=torch.int8),
        "int16": torch.tensor([-1], dtype=torch.int16),
        "int32": torch.tensor([-1], dtype=torch.int32),
        "int64": torch.tensor(-1),
        "empty": torch.empty(0, 4),
        "transposed": torch.randn(3, PIECE_ELEMENTS).t(),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "Ünïcode \n name": torch.ones(1),
    }


@pytest.fixture
def path(tensors: Mapping[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, [StreamedTensor.of(name, tensor) for name, tensor in tensors.items()])
    return path


def test_safetensors_reads_what_was_written(path: Path, tensors: Mapping[str, Tensor]) -> None:
    loaded = load_file(path)

    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor), name


def test_what_safetensors_wrote_is_read(tensors: Mapping[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, {"step": "8"})

    with TensorReader(path) as reader:
        assert reader.names == sorted(tensors)
        assert all(torch.equal(reader.read(name), tensor) for name, tensor in tensors.items())


def test_each_tensor_is_aligned_to_its_type(path: Path, tensors: Mapping[str, Tensor]) -> None:
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])

    for name, entry in header.items():
        assert (8 + header_bytes + entry["data_offsets"][0]) % tensors[name].itemsize == 0, name


def test_tensors_are_read_whole_and_in_pieces(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with TensorReader(path) as reader:
        for name, tensor in tensors.items():
            pieces = list(reader.pieces(name))
            assert (reader.shape(name), reader.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
            assert torch.equal(reader.read(name), tensor)
            assert torch.equal(torch.cat([torch.empty(0, dtype=tensor.dtype), *pieces]), tensor.reshape(-1))
            assert all(len(piece) <= PIECE_ELEMENTS for piece in pieces)
        window = slice(PIECE_ELEMENTS - 1, PIECE_ELEMENTS + 2)
        assert torch.equal(reader.window("float32", window), tensors["float32"][window])


def test_a_piece_may_use_the_memory_of_the_one_before(tmp_path: Path) -> None:
    buffer = torch.empty(2)
    stream = StreamedTensor("a", torch.float32, (3, 2), lambda: (buffer.fill_(number) for number in range(3)))

    write_tensors(tmp_path / "a", [stream])

    assert load_file(tmp_path / "a")["a"].tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_not_finite_are_refused_by_name(number: float, dtype: torch.dtype, tmp_path: Path) -> None:
    poisoned = torch.zeros(MANY, dtype=dtype)
    poisoned[-1] = number
    streams = [StreamedTensor.of("good", torch.arange(4)), StreamedTensor.of("layer.weight", poisoned)]

    with pytest.raises(NotFiniteError, match=r"layer\.weight has a number that is NaN or infinite.*--learning-rate"):
        write_tensors(tmp_path / "a", streams, require_finite=True)

    assert list(tmp_path.iterdir()) == []
    write_tensors(tmp_path / "a", streams)  # unless this is not asked for


def two() -> Iterator[Tensor]:
    yield torch.zeros(2)


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ([StreamedTensor("a", torch.float32, (3,), two)], r"the pieces of a are not float32 \[3\]"),
        ([StreamedTensor("a", torch.float32, (1,), two)], r"the pieces of a are not float32 \[1\]"),
        ([StreamedTensor("a", torch.int32, (2,), two)], r"the pieces of a are not int32 \[2\]"),
        ([StreamedTensor("a", torch.complex64, (2,), two)], r"a has the type torch\.complex64"),
        ([StreamedTensor("a", torch.float32, (2,), two)] * 2, "two tensors have it"),
        ([StreamedTensor("__metadata__", torch.float32, (2,), two)], "cannot be the name"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(streams: list[StreamedTensor], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        write_tensors(tmp_path / "a", streams)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_is_closed_before_it_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows deletes no open file."""
    opened: list[IO[bytes]] = []
    really_open, unlink = Path.open, Path.unlink

    def noted(path: Path, mode: str) -> IO[bytes]:
        opened.append(really_open(path, mode))
        return opened[-1]

    def unlink_if_closed(path: Path) -> None:
        assert opened[-1].closed
        unlink(path)

    monkeypatch.setattr(Path, "open", noted)
    monkeypatch.setattr(Path, "unlink", unlink_if_closed)

    with pytest.raises(ValueError, match="the pieces of a are not"):
        write_tensors(tmp_path / "a", [StreamedTensor("a", torch.float32, (3,), two)])

    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()

    with pytest.raises(FileExistsError):
        write_tensors(path, [])

    assert path.read_bytes() == before


@pytest.mark.parametrize("text", [b"", b"no tensors", b"\xff" * 8, (2).to_bytes(8, "little") + b"[]"])
def test_another_file_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(text)

    with pytest.raises(DataError, match=r"a: cannot be read as a safetensors file: "):
        TensorReader(tmp_path / "a")


def test_a_cut_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DataError, match="cannot be read"):
        TensorReader(path)


def test_a_tensor_that_is_not_there_is_named(path: Path) -> None:
    with TensorReader(path) as reader, pytest.raises(DataError, match=r"has no tensor weights"):
        reader.read("weights")


@pytest.mark.slow
def test_a_large_tensor_takes_the_memory_of_a_few_pieces(tmp_path: Path) -> None:
    finished = subprocess.run([sys.executable, "-c", PEAK, tmp_path], check=True, capture_output=True, text=True)

    assert float(finished.stdout) < 24
