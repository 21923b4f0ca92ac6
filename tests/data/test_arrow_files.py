"""Parquet and Arrow files, on the disk and from the Hugging Face Hub, which tests only imitate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet
from training_examples import PAY, read

from splade_bench.data import arrow_files
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.records import Triple
from splade_bench.data.triple_file import TripleFile
from splade_bench.errors import DataError


def saved_dataset(folder: Path, rows: list[dict[str, Any]]) -> None:
    """What ``save_to_disk`` of Hugging Face's datasets writes."""
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")


ROWS = [{"anchor": f"q{number}", "positive": f"p{number}", "negative": f"n{number}"} for number in range(1000)]


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    saved_dataset(tmp_path / "one", ROWS)
    saved_dataset(tmp_path / "splits" / "train", ROWS)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    saved_dataset(tmp_path / "no-train" / "test", ROWS)
    (tmp_path / "no-train" / "dataset_dict.json").write_text('{"splits": ["test"]}')

    expected = [Triple(query=row["anchor"], positive=row["positive"], negatives=(row["negative"],)) for row in ROWS]
    assert read(tmp_path / "one") == read(tmp_path / "splits") == expected
    assert read(tmp_path / "one" / "data-00000-of-00001.arrow") == expected
    with pytest.raises(DataError, match=r"no-train: has no split train, but test; name the folder of one of them"):
        read(tmp_path / "no-train")
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"one: is a data set that is damaged: .*; save it again"):
        read(tmp_path / "one")


def test_a_folder_of_parquet_files_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("test-0", "train-00000-of-00002", "train-00001-of-00002")):
        rows = [{"query": f"q{number}", "positive": "p", "negative": ["n"], "vector": [0.5], "label": 1.5}]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / f"{name}.parquet")
    triples = file_corpus(tmp_path, None).triples

    assert [triple.query for triple in triples] == ["q1", "q2"]
    assert isinstance(triples, TripleFile)
    assert triples.record_name(1) == f"{tmp_path}/data/train-00001-of-00002.parquet: row 1"
    assert triples[0].teacher_scores == (0, -1.5)


def test_a_missing_library_is_one_line(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(DataError, match=r"train.parquet: is read with pyarrow, .* pip install 'splade-bench\[data\]'"):
        read(examples / "train.parquet")


def test_a_name_on_the_hub_is_used_only_if_it_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("somebody/texts/triplet")

    with pytest.raises(
        DataError, match=r"texts/triplet: cannot be read: .*; if it names .* Hub, add --train-format hub"
    ):
        read(name)
    with pytest.raises(
        DataError, match=r"triplet: the data set cannot be had from the Hugging .*\(.*\); check its"
    ) as c:
        read(name, train_format="hub")
    assert "\n" not in str(c.value)


def test_a_data_set_on_the_hub_is_its_parquet_files(
    tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    (tmp_path / "snapshot" / "only" / "train").mkdir(parents=True)
    (copied / "train.parquet").rename(tmp_path / "snapshot" / "only" / "train" / "0000.parquet")
    files = ["only/train/0000.parquet", ".gitattributes"]

    def download(name: str, **settings: Any) -> str:
        asked.append((name, settings["allow_patterns"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: files)

    assert read(Path("somebody/texts"), train_format="hub") == [PAY]
    assert read(Path("somebody/texts/only"), train_format="hub") == [PAY]
    assert asked == [("somebody/texts", "only/*train/*.parquet")] * 2
    files.append("other/train/0000.parquet")
    with pytest.raises(DataError, match=r"2 configurations .*; name one: somebody/texts/only or somebody/texts/other"):
        read(Path("somebody/texts"), train_format="hub")


def test_arrow_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "_ROWS", 7)
    saved_dataset(tmp_path / "one", ROWS[:20])

    assert len(read(tmp_path / "one")) == 20


def test_bytes_of_a_column_are_its_text(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"query": b"how", "positive": "Pay."}])
    parquet.write_table(table, tmp_path / "train.parquet")

    assert read(tmp_path / "train.parquet") == [Triple(query="how", positive="Pay.")]


def test_a_row_that_is_not_utf_8_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    texts = pyarrow.Array.from_buffers(
        pyarrow.utf8(), 2, [None, *map(pyarrow.py_buffer, (b"\0\0\0\0\3\0\0\0\7\0\0\0", b"howcaf\xe9"))]
    )
    parquet.write_table(pyarrow.table({"query": texts, "positive": ["a", "b"]}), tmp_path / "train.parquet")

    with pytest.raises(DataError, match=r"train\.parquet: row 2: is not UTF-8 .*; write its texts as UTF-8"):
        read(tmp_path / "train.parquet")
    assert read(tmp_path / "train.parquet", skip_bad_records=True) == [Triple(query="how", positive="a")]


def test_a_file_that_a_data_set_names_but_does_not_have_is_named(tmp_path: Path) -> None:
    saved_dataset(tmp_path / "one", ROWS)
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()

    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: cannot be read"):
        read(tmp_path / "one")
