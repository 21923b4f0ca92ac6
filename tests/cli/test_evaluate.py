"""``splade-bench evaluate`` on a BEIR folder: metrics, measures, runs, and queries that are documents."""

from __future__ import annotations

import errno
import json
import signal
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from splade_bench.cli import main
from splade_bench.data.records import Triple
from splade_bench.model import SpladeEncoder

ir_measures = pytest.importorskip("ir_measures", reason="the oracle is in the test extra")


@pytest.fixture
def collection(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    """Graded judgements: 2 for a query's positive, 1 for another document, 0 for a negative."""
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    texts = list(dict.fromkeys(text for triple in triples for text in (triple.positive, *triple.negatives)))
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{row}", "text": text} for row, text in enumerate(texts)])
    queries = [{"_id": f"q{row}", "text": triple.query} for row, triple in enumerate(triples)]
    write_lines(folder / "queries.jsonl", queries)
    rows = ["query-id\tcorpus-id\tscore"]
    for row, triple in enumerate(triples[:20]):
        judged = {triple.positive: 2, texts[(7 * row) % len(texts)]: 1} | {triple.negatives[0]: 0}
        rows += [f"q{row}\td{texts.index(text)}\t{grade}" for text, grade in judged.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq21\td3\t1\n")
    return folder


@pytest.fixture
def model(tmp_path: Path, encoder: SpladeEncoder) -> Path:
    encoder.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def write_lines(path: Path, records: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def evaluated(model: Path, collection: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the verb on the collection and returns its JSON."""

    def run(*more: str) -> Any:
        arguments = ["evaluate", "--model-name", str(model), "--val-file", str(collection), "--device", "cpu"]
        code = main([*arguments, "--max-length", "16", "--json", *more])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return run


def test_metrics_and_measures_are_those_of_ir_measures_for_the_run_file(
    evaluated: Any, collection: Path, tmp_path: Path
) -> None:
    names = ["nDCG@10", "RR@10", "P@5", "R@100", "AP"]

    record = evaluated("--measures", *names, "--run-file", str(tmp_path / "run.trec"))

    qrels: dict[str, dict[str, int]] = {}
    for line in (collection / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query_id, document_id, grade = line.split("\t")
        qrels.setdefault(query_id, {})[document_id] = int(grade)
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    expected = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in names], qrels, run)
    metrics = record["metrics"]
    assert {name: metrics[name] for name in names} == pytest.approx(
        {str(measure): value for measure, value in expected.items()}, abs=1e-9
    )
    ours = {"ndcg@10": "nDCG@10", "mrr@10": "RR@10", "p@5": "P@5", "recall@100": "R@100"}
    assert {name: metrics[name] for name in ours} == pytest.approx(
        {name: metrics[theirs] for name, theirs in ours.items()}, abs=1e-9
    )
    assert record["queries"] == len(qrels) == len({line.query_id for line in run})
    assert set(names) <= record["bm25"].keys()
    assert not [name for name in metrics if name.startswith("candidate_")]
    assert metrics["retrieval_flops"] > 0


def test_a_split_is_chosen_by_its_name(evaluated: Any, collection: Path) -> None:
    record = evaluated("--split", "dev")

    assert record["queries"] == 1
    assert record["corpus"] == f"{collection}, dev split"


def test_a_querys_own_text_is_left_out_on_wish_and_said_otherwise(
    evaluated: Any, collection: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    queries = [json.loads(line) for line in (collection / "queries.jsonl").read_text().splitlines()]
    corpus = (collection / "corpus.jsonl").read_text()
    own = [{"_id": f"own{row}", "text": query["text"].upper()} for row, query in enumerate(queries)]
    (collection / "corpus.jsonl").write_text(corpus + "".join(json.dumps(one) + "\n" for one in own))

    with_it = evaluated()
    assert "20 of 20 queries are documents too" in caplog.text
    caplog.clear()
    without_it = evaluated("--exclude-own-text")

    assert "are documents too" not in caplog.text
    assert with_it["queries_that_are_documents"] == without_it["queries_that_are_documents"] == 20
    assert with_it["bm25"]["p@1"] == 0.0
    assert without_it["bm25"]["p@1"] > 0.3
    assert without_it["metrics"]["recall@100"] >= with_it["metrics"]["recall@100"]


def test_bm25_is_null_for_a_language_without_spaces(evaluated: Any, collection: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("splade_bench.evaluation.evaluator.has_spaced_words", lambda texts: not list(texts))

    assert evaluated()["bm25"] is None


def test_the_vectors_of_documents_are_kept_on_wish_and_can_be_searched(
    evaluated: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, run = tmp_path / "kept" / "vectors", tmp_path / "run.trec"

    kept, alone = evaluated("--vectors", str(vectors), "--run-file", str(run)), evaluated()

    assert {name: kept[name] for name in ("metrics", "bm25")} == {name: alone[name] for name in ("metrics", "bm25")}
    query = json.loads((tmp_path / "collection" / "queries.jsonl").read_text().splitlines()[0])["text"]
    assert main(["search", "--index", str(vectors), "--query", query, "--device", "cpu", "--max-length", "16"]) == 0
    found = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert found == [line.split()[2] for line in run.read_text().splitlines()[: len(found)]]


def test_vectors_that_find_no_room_are_one_line(
    model: Path, collection: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("splade_bench.evaluation.vector_folder._write_header", full)
    kept = collection / "kept"
    arguments = ["evaluate", "--model-name", str(model), "--val-file", str(collection), "--device", "cpu"]

    assert main([*arguments, "--vectors", str(kept)]) == 2

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"--vectors {kept}: cannot be written: No space left on device; name another place" in complaint
    assert not [path for path in collection.iterdir() if "kept" in path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP] if sys.platform != "win32" else [])
def test_a_signal_leaves_no_vectors(
    number: signal.Signals, model: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def ended(folder: Path) -> None:
        seen.extend(temporary.iterdir())
        signal.raise_signal(number)

    temporary = tmp_path / "large"
    temporary.mkdir()
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr("splade_bench.files._DISK_FOLDER", temporary)
    monkeypatch.setattr("splade_bench.evaluation.evaluator.read_vectors", ended)
    before = signal.getsignal(number)
    arguments = ["evaluate", "--model-name", str(model), "--val-file", str(collection), "--device", "cpu"]

    with pytest.raises(SystemExit) as ending:
        main(arguments)

    assert ending.value.code == 128 + number
    assert len(seen) == 1
    assert not [*temporary.iterdir()]
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_texts(evaluated: Any, collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splade_bench.evaluation.encoding.WINDOW", 64)
    corpus = (collection / "corpus.jsonl").read_text()
    text = "this function opens the parser " * 100
    peaks_bytes = []
    for more in (250, 250, 1000):  # the first one fills caches; 200 texts are sampled
        added = [{"_id": f"more{row}", "text": f"{row} {text}"} for row in range(more)]
        write_lines(collection / "corpus.jsonl", added)
        (collection / "corpus.jsonl").write_text(corpus + (collection / "corpus.jsonl").read_text())
        del added
        tracemalloc.start()
        try:
            assert evaluated()["documents"] > more
            peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    assert (peaks_bytes[2] - peaks_bytes[1]) / 750 < len(text) / 4


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--vectors", "{collection}"], "exists already; name a new folder"),
        (["--vectors", "{collection}/corpus.jsonl/kept"], "corpus.jsonl is not a folder; name another place"),
        (["--split", "valid"], "has no split 'valid'; it has dev, test"),
        (["--measures", "nDGC@10"], "--measures nDGC@10: there is no such measure"),
        (["--top-k", "10"], "--top-k 10: must be at least 100"),
        (
            ["--run-file", "nowhere/run.trec"],
            "--run-file nowhere/run.trec: cannot be written: there is no folder nowhere",
        ),
        (["--val-file", "file.json", "--split", "dev"], "--split dev: only a BEIR folder has splits"),
    ],
)
def test_a_fault_is_one_line(
    more: list[str], complaint: str, model: Path, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--model-name", str(model), "--val-file", str(collection), "--device", "cpu"]

    assert main([*arguments, *(argument.format(collection=collection) for argument in more)]) == 2

    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


def test_an_id_that_a_run_cannot_have_is_found_out_before_the_model(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (collection / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "a b", "text": "parser"}\n')
    arguments = ["evaluate", "--model-name", "nowhere", "--val-file", str(collection), "--device", "cpu"]

    assert main([*arguments, "--run-file", str(tmp_path / "run.trec")]) == 2
    assert "a TREC run cannot have the id 'a b'; give ids without spaces" in capsys.readouterr().err
