"""What a plan says about the files of a training: their memory, and the same errors as train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splade_bench.batching.prompts import Prompts
from splade_bench.cli import main
from splade_bench.cli.flags import Faults, Placement, PlannedFlags
from splade_bench.cli.planning import plan_request
from splade_bench.cli.sources import load_corpus
from splade_bench.config import TrainConfig
from splade_bench.data.records import Corpus, Triple
from splade_bench.errors import ConfigError, DataError
from splade_bench.model import SpladeEncoder
from splade_bench.planner.requests import PlanRequest, data_bytes, make_plan


def request_for(train_file: Path | None, *, skip_bad_records: bool = False) -> PlanRequest:
    return plan_request(
        PlannedFlags(
            model_name="toy",
            train_file=train_file,
            config=TrainConfig(batch_size=4, max_length=8),
            placement=Placement(device="cpu"),
            faults=Faults(skip_bad_records=skip_bad_records),
        )
    )


def test_data_takes_four_bytes_a_triple_and_the_held_out_texts(train_file: Path) -> None:
    triples = [Triple(query="q", positive="p")] * 1000
    assert data_bytes(Corpus(triples=triples, test=None, test_triples=(), sha256="")) == 4000

    alone = load_corpus(train_file, None, need_negatives=True)
    with_val = load_corpus(train_file, train_file, need_negatives=True)
    assert with_val.test
    texts_bytes = sum(map(len, (*with_val.test.queries.values(), *with_val.test.corpus.values())))
    assert data_bytes(with_val) - data_bytes(alone) > texts_bytes


def test_the_planned_peak_includes_the_data(train_file: Path) -> None:
    request = request_for(train_file)
    assert request.data_bytes > 0
    assert request_for(None).data_bytes == 0
    assert make_plan(request).baseline_bytes > request.data_bytes


def test_a_plan_refuses_a_bad_file_as_train_does(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # of splade-output
    records = json.loads(train_file.read_text(encoding="utf-8"))
    records[1]["query"] = ""
    train_file.write_text(json.dumps(records), encoding="utf-8")

    for verb in ("plan", "fit", "train"):
        assert main([verb, "--model-name", "toy", "--device", "cpu", "--train-file", str(train_file)]) == 2
        assert "record 2: query is empty; --skip-bad-records leaves" in capsys.readouterr().err
    with pytest.raises(DataError):
        request_for(train_file)
    assert request_for(train_file, skip_bad_records=True).data_bytes > 0


def test_a_plan_counts_the_prompts_of_the_model(train_file: Path, encoder: SpladeEncoder, tmp_path: Path) -> None:
    model = tmp_path / "model"
    lengths = {}
    for prompt in ("", "represent this sentence: "):
        encoder.prompts = Prompts(document=prompt)
        encoder.save_pretrained(model)
        flags = PlannedFlags(
            model_name=str(model),
            train_file=train_file,
            config=TrainConfig(batch_size=4, max_length=64),
            placement=Placement(device="cpu"),
            lengths="data",
        )
        lengths[prompt] = plan_request(flags).lengths.groups
    (queries, *documents), (queries_with, *documents_with) = lengths.values()

    assert queries_with == queries
    assert max(max(group) for group in documents_with) > max(max(group) for group in documents)

    (model / "config_sentence_transformers.json").write_text("[", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config_sentence_transformers\.json: cannot be used"):
        plan_request(flags)


def test_a_training_file_needs_no_home_folder(train_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPLADE_BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)

    assert load_corpus(train_file, None, need_negatives=True).triples
