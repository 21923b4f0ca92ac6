"""Parquet and Arrow files as records, read with pyarrow: those of Hugging Face's data sets too, on disk or by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import IO, Any

from splade_bench.data.columns import is_column
from splade_bench.data.placed import PlacedRecord
from splade_bench.errors import DataError, error_line

# Rows in memory at once.
_BUFFER_BYTES = 2**16
_ROWS = 256
_LONGEST_REASON = 200
_STATE = "state.json"
_SPLITS = "dataset_dict.json"
# Where the Hub keeps each data set as Parquet files, CONFIGURATION/SPLIT/0000.parquet.
_PARQUET_REVISION = "refs/convert/parquet"


def parquet_records(path: Path, file: IO[bytes], place: str = "") -> Iterator[PlacedRecord]:
    """The rows of a Parquet file; of its columns, those that a training file has.

    Args:
        path: the file or folder that the user named.
        file: the open file.
        place: the file in the folder, such as "/train.parquet".

    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """
    parquet, pyarrow = _pyarrow(path, "parquet"), _pyarrow(path)
    try:
        # Without these, a whole row group is in memory, of up to a million rows.
        table = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        names = table.schema_arrow.names
        known = list(filter(is_column, names))
        yield from _rows(table.iter_batches(batch_size=_ROWS, columns=known if known else names), place)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}{place}: is a Parquet file that cannot be read: {error_line(error)}") from error


def arrow_records(path: Path, file: IO[bytes], place: str = "") -> Iterator[PlacedRecord]:
    """The rows of an Arrow file, as :func:`parquet_records`; in the file format or as a stream."""
    ipc, pyarrow = _pyarrow(path, "ipc"), _pyarrow(path)
    try:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            reader = ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(ipc.open_stream(file))
        pieces = (batch.slice(start, _ROWS) for batch in batches for start in range(0, batch.num_rows, _ROWS))
        yield from _rows(pieces, place)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}{place}: is an Arrow file that cannot be read: {error_line(error)}") from error


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face's datasets wrote a folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def saved_dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that ``save_to_disk`` wrote; of several splits, those of "train".

    Raises:
        DataError: it has no training split, or is damaged.
    """
    try:
        if (folder / _SPLITS).is_file():
            splits = json.loads((folder / _SPLITS).read_bytes())["splits"]
            if "train" not in splits:
                known = ", ".join(splits)
                raise DataError(f"{folder}: has no split train, but {known}; name the folder of one of them")
            folder = folder / "train"
        state = json.loads((folder / _STATE).read_bytes())
        return [folder / Path(file["filename"]).name for file in state["_data_files"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder}: is a data set that is damaged: {error_line(error)}; save it again") from error


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder and of two levels of folders in it; if "train" is in some paths, these alone.

    A data set has CONFIGURATION/SPLIT/FILE at most, and a user may name a folder by mistake that has a whole disk.
    """
    found = sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}*.parquet"))
    return [path for path in found if "train" in path.relative_to(folder).as_posix()] or found


def folder_records(folder: Path, files: Sequence[Path]) -> Iterator[PlacedRecord]:
    """The rows of Parquet or Arrow files in a folder, one file after the other."""
    for path in files:
        read = parquet_records if path.suffix == ".parquet" else arrow_records
        try:
            file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        with file:
            yield from read(folder, file, f"/{path.relative_to(folder).as_posix()}")


def hub_folder(name: Path) -> Path:
    """The training split of a data set on the Hugging Face Hub, downloaded or from the Hub's cache, as Parquet files.

    Args:
        name: OWNER/NAME, or OWNER/NAME/CONFIGURATION if it has several.

    Raises:
        DataError: there is none, it needs a login, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    owner_and_name, configurations = "/".join(name.parts[:2]), list(name.parts[2:3])
    try:
        if not configurations:
            paths = HfApi().list_repo_files(owner_and_name, repo_type="dataset", revision=_PARQUET_REVISION)
            configurations = sorted({path.split("/")[0] for path in paths if path.endswith(".parquet")})
        if len(configurations) != 1:
            named = " or ".join(f"{owner_and_name}/{one}" for one in configurations[:8])
            advice = f"name one: {named}" if named else "download its files and name the folder"
            raise DataError(f"{name}: has {len(configurations)} configurations on the Hugging Face Hub; {advice}")
        patterns = f"{configurations[0]}/*train/*.parquet"
        folder = snapshot_download(
            owner_and_name, repo_type="dataset", revision=_PARQUET_REVISION, allow_patterns=patterns
        )
    except DataError:
        raise
    except Exception as error:  # of the network, of the server, of the cache: each library has its own
        reason = error_line(error).split(". ")[0][:_LONGEST_REASON]
        raise DataError(
            f"{name}: the data set cannot be had from the Hugging Face Hub ({reason}); check its name, log in if it "
            "needs that, and go online; or download its files and name their folder"
        ) from error
    if not parquet_files(Path(folder)):
        raise DataError(f"{name}: has no split train on the Hugging Face Hub; download its files and name the folder")
    return Path(folder)


def _rows(batches: Any, place: str) -> Iterator[PlacedRecord]:
    numbers = count(1)
    for batch in batches:
        for row in _rows_of(batch):
            where = f"{place}: row {next(numbers)}"
            yield PlacedRecord(where, fault=row) if isinstance(row, str) else PlacedRecord(where, row)


def _rows_of(batch: Any) -> list[dict[str, Any] | str]:
    """The rows of a batch; of one that cannot be read, why."""
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [f"is not UTF-8 ({error.reason}); write its texts as UTF-8"]
        return [row for number in range(batch.num_rows) for row in _rows_of(batch.slice(number, 1))]


def _pyarrow(path: Path, module: str = "") -> Any:
    try:
        return import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise DataError(
            f"{path}: is read with pyarrow, which is not installed: pip install 'splade-bench[data]'"
        ) from error
