"""``splade-bench encode`` and ``search``: what is written, what is found, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from splade_bench.cli import main
from splade_bench.data.records import Triple
from splade_bench.evaluation import search
from splade_bench.evaluation.vector_folder import read_vectors
from splade_bench.evaluation.vector_lines import LINE_FORMATS
from splade_bench.model import SpladeEncoder

Encode = Callable[..., int]


@pytest.fixture
def model(tmp_path: Path, encoder: SpladeEncoder) -> Path:
    encoder.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(triples: Sequence[Triple]) -> list[str]:
    """Some of them twice, so that scores are equal."""
    return [triple.positive for triple in triples] + [triples[0].positive, triples[5].positive]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    (tmp_path / "beir").mkdir()
    lines = [json.dumps({"_id": f"d{row}", "title": "", "text": text}) for row, text in enumerate(texts)]
    (tmp_path / "beir" / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "beir" / "corpus.jsonl"


@pytest.fixture
def encode(model: Path, tmp_path: Path) -> Encode:
    def run(source: Path, *more: str, output: str = "vectors") -> int:
        arguments = ["encode", "--model-name", str(model), "--input", str(source), "--device", "cpu"]
        return main([*arguments, "--max-length", "16", "--output-dir", str(tmp_path / output), *more])

    return run


@pytest.mark.parametrize("whole_folder", [True, False])
def test_documents_are_encoded_in_their_order(
    encode: Encode,
    corpus: Path,
    texts: list[str],
    tmp_path: Path,
    encoder: SpladeEncoder,
    capsys: pytest.CaptureFixture[str],
    whole_folder: bool,
) -> None:
    assert encode(corpus.parent if whole_folder else corpus, "--json") == 0

    record = json.loads(capsys.readouterr().out)
    read = read_vectors(tmp_path / "vectors")
    with encoder.evaluating(), torch.no_grad():
        alone = torch.stack([encoder(encoder.tokenize([text], max_length=16))[0] for text in texts])
    torch.testing.assert_close(read.reps.dense(0, len(texts)), alone)
    assert read.ids == [f"d{row}" for row in range(len(texts))]
    assert record["rows"] == len(texts)
    assert record["active_entries"] == len(read.reps.entries)
    assert (read.manifest.kind, read.manifest.max_length) == ("documents", 16)


@pytest.mark.parametrize("queries_as", ["lines", "json lines"])
def test_a_search_finds_what_brute_force_finds(
    encode: Encode,
    corpus: Path,
    texts: list[str],
    tmp_path: Path,
    triples: Sequence[Triple],
    encoder: SpladeEncoder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    queries_as: str,
) -> None:
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", 7)
    queries = [triple.query for triple in triples]
    rows = [json.dumps({"_id": str(row), "text": text}) for row, text in enumerate(queries, 1)]
    path = tmp_path / "queries"
    path.write_text("\n".join(queries if queries_as == "lines" else rows))
    encode(corpus)
    capsys.readouterr()
    run = tmp_path / "run.trec"

    arguments = ["search", "--index", str(tmp_path / "vectors"), "--queries", str(path), "--device", "cpu"]
    assert main([*arguments, "--top-k", "5", "--run-file", str(run), "--max-length", "16"]) == 0
    assert main([*arguments, "--top-k", "5", "--max-length", "16"]) == 0

    assert capsys.readouterr().out == run.read_text()
    with encoder.evaluating(), torch.no_grad():
        vectors = [
            torch.stack([encoder(encoder.tokenize([text], max_length=16))[0] for text in some]).double()
            for some in (queries, texts)
        ]
    expected = (vectors[0] @ vectors[1].t()).float()
    lines = [line.split() for line in run.read_text().splitlines()]
    assert len(lines) == 5 * len(queries)
    for query, _, document, rank, score, _ in lines:
        scores = expected[int(query) - 1]
        assert float(score) == pytest.approx(scores[int(document[1:])].item(), rel=1e-4)
        assert float(score) == pytest.approx(scores.sort(descending=True).values[int(rank) - 1].item(), rel=1e-4)
    places = [document for query, _, document, *_ in lines if query == "1"]
    assert places.index("d32") + 1 == places.index("d0")  # equal texts, the larger id first


def test_one_query_is_enough(
    encode: Encode, corpus: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode(corpus)
    capsys.readouterr()

    arguments = ["search", "--index", str(tmp_path / "vectors"), "--query", "who opens the parser", "--device", "cpu"]
    assert main([*arguments, "--top-k", "3"]) == 0

    assert [line.split()[0] + line.split()[3] for line in capsys.readouterr().out.splitlines()] == ["11", "12", "13"]


@pytest.mark.parametrize("name", LINE_FORMATS)
def test_lines_for_search_engines_name_the_tokens(encode: Encode, corpus: Path, tmp_path: Path, name: str) -> None:
    assert encode(corpus, "--format", name) == 0
    assert encode(corpus, output="matrix") == 0

    lines = [json.loads(line) for line in (tmp_path / "vectors" / "vectors.jsonl").read_text().splitlines()]
    reps = read_vectors(tmp_path / "matrix").reps
    assert len(lines) == len(reps)
    if name == "qdrant":
        first = lines[0]["vector"]["splade"]
        assert first["indices"] == reps.entries[: int(reps.row_starts[1])].tolist()
    else:
        assert all(isinstance(token, str) and weight > 0 for line in lines for token, weight in line["vector"].items())
        assert len(lines[0]["vector"]) > 10


def test_queries_are_encoded_as_such(encode: Encode, corpus: Path, tmp_path: Path) -> None:
    (corpus.parent / "queries.jsonl").write_text('{"_id": "q", "text": "who opens the socket"}\n')

    assert encode(corpus.parent, "--kind", "queries") == 0

    assert read_vectors(tmp_path / "vectors").manifest.kind == "queries"
    assert read_vectors(tmp_path / "vectors").ids == ["q"]


def test_an_earlier_folder_is_replaced_only_on_wish_and_only_ours(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")

    assert encode(corpus) == 0
    assert encode(corpus, "--format", "qdrant") == 2
    assert "has vectors already; name another folder, or add --overwrite" in capsys.readouterr().err
    assert encode(corpus, "--format", "qdrant", "--overwrite") == 0
    assert [path.name for path in (tmp_path / "vectors").iterdir()] == ["vectors.jsonl"]
    assert encode(corpus, "--overwrite", output="mine") == 2
    assert "exists, and splade-bench encode did not write it" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "words"


def test_a_full_disk_is_one_line_that_names_the_option(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("splade_bench.evaluation.vector_folder._write_header", full)

    assert encode(corpus) == 2

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"--output-dir {tmp_path / 'vectors'}: cannot be written: No space left on device; name another" in complaint
    assert not list(tmp_path.glob("*vectors*"))


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP] if sys.platform != "win32" else [])
def test_a_signal_leaves_no_folder(
    number: signal.Signals, encode: Encode, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def ended(*_: Any) -> None:
        seen.extend(tmp_path.glob(".vectors*"))
        signal.raise_signal(number)

    monkeypatch.setattr("splade_bench.evaluation.vector_folder._write_header", ended)

    with pytest.raises(SystemExit) as ending:
        encode(corpus)

    assert ending.value.code == 128 + number
    assert len(seen) == 1
    assert not list(tmp_path.glob("*vectors*"))


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_signal_leaves_no_run_file(
    encode: Encode, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encode(corpus) == 0
    monkeypatch.setattr("splade_bench.cli.search.top_documents", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    arguments = ["search", "--index", str(tmp_path / "vectors"), "--query", "a", "--device", "cpu"]

    with pytest.raises(SystemExit) as ending:
        main([*arguments, "--run-file", str(tmp_path / "run.trec")])

    assert ending.value.code == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("*run.trec*"))


def test_a_broken_line_leaves_no_folder(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.cli.encode._SAMPLED_TEXTS", 2)
    corpus.write_text(corpus.read_text() + "\n{broken\n")

    assert encode(corpus) == 2

    assert "corpus.jsonl:35: is not JSON" in capsys.readouterr().err
    assert not (tmp_path / "vectors").exists()
    assert not list(tmp_path.glob(".vectors*"))


def test_a_search_among_another_models_vectors_is_refused(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode(corpus)
    path = tmp_path / "vectors" / "vectors.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 30522}))

    assert main(["search", "--index", str(tmp_path / "vectors"), "--query", "who", "--device", "cpu"]) == 2
    assert "has a vocabulary of 512 entries" in capsys.readouterr().err


def test_another_model_name_is_warned_of(
    encode: Encode, corpus: Path, tmp_path: Path, encoder: SpladeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    encoder.save_pretrained(tmp_path / "other")
    encode(corpus)

    arguments: list[Any] = ["search", "--index", str(tmp_path / "vectors"), "--query", "who", "--device", "cpu"]
    assert main([*arguments, "--model-name", str(tmp_path / "other")]) == 0
    assert "which must be the same model" in caplog.text


def test_the_same_model_by_another_path_is_not_warned_of(
    encode: Encode,
    corpus: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode(corpus)
    monkeypatch.chdir(tmp_path)
    name = json.loads((tmp_path / "vectors" / "vectors.json").read_text())["model_name"]
    relative = os.path.relpath(name, tmp_path)

    arguments = ["search", "--index", "vectors", "--query", "who", "--device", "cpu", "--model-name", relative]
    assert main(arguments) == 0
    assert not caplog.text


def test_an_id_that_a_run_cannot_have_is_found_out_before_the_model(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "a b", "text": "who"}\n')
    encode(corpus)

    arguments = ["search", "--index", str(tmp_path / "vectors"), "--queries", str(tmp_path / "queries.jsonl")]
    assert main([*arguments, "--model-name", "nowhere"]) == 2
    assert "a TREC run cannot have the id 'a b'; give ids without spaces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["search", "--index", "x"], "give either --query with a text, or --queries with a file"),
        (["search", "--index", "x", "--query", "a", "--queries", "b"], "give either --query"),
        (["search", "--index", "x", "--query", " "], "--query: is empty"),
        (["search", "--index", "x", "--query", "a", "--top-k", "0"], "--top-k 0: must be at least 1"),
        (["search", "--index", "nowhere", "--query", "a"], "nowhere: has no vectors.json"),
        (["search", "--index", "x", "--queries", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["encode", "--model-name", "x", "--input", "nowhere.txt", "--output-dir", "out"], "nowhere.txt: cannot be"),
        (["encode", "--model-name", "x", "--input", ".", "--output-dir", "out"], "has no corpus.jsonl"),
        (["encode", "--input", "x", "--output-dir", "out"], "--model-name"),
        (["encode", "--model-name", "x", "--input", "x", "--output-dir", "out", "--format", "lucene"], "--format"),
        (["encode", "--model-name", "x", "--input", "x", "--output-dir", "out", "--batch-size", "0"], "--batch-size 0"),
        (["encode", "--model-name", "x", "--input", "x", "--output-dir", f"{__file__}/v"], "--output-dir"),
        (["encode", "--model-name", "x", "--input", "x", "--output-dir", f"{__file__}/v"], ".py is not a folder; name"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_two(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 2

    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_vectors_of_queries_are_not_searched(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(corpus, "--kind", "queries") == 0

    assert main(["search", "--index", str(tmp_path / "vectors"), "--query", "who", "--device", "cpu"]) == 2

    assert "has vectors of queries; encode the documents" in capsys.readouterr().err


def test_a_run_file_that_is_a_folder_is_refused_before_the_search(
    encode: Encode, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(corpus) == 0
    line = ["search", "--index", str(tmp_path / "vectors"), "--query", "who", "--device", "cpu"]

    assert main([*line, "--run-file", str(tmp_path)]) == 2

    assert f"--run-file {tmp_path}: is a folder; name a file" in capsys.readouterr().err


def test_the_model_of_vectors_is_found_from_another_folder(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["encode", "--model-name", model.name, "--input", str(corpus), "--device", "cpu", "--max-length", "16"]
    assert main([*arguments, "--output-dir", "vectors"]) == 0
    monkeypatch.chdir("/")

    assert main(["search", "--index", str(tmp_path / "vectors"), "--query", "who", "--device", "cpu"]) == 0
