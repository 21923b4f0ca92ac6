"""Every masked-language architecture of the installed transformers works, or is refused in one line, by every verb."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from architecture_table import (
    LARGEST_DIFFERENCE,
    architectures,
    can_be_planned,
    load_architecture,
    save_model,
    try_architecture,
)
from transformers import PretrainedConfig

from splade_bench.batching.batches import pad
from splade_bench.cli import main
from splade_bench.errors import ConfigError
from splade_bench.model import SpladeEncoder
from splade_bench.model.miniature import miniature

CONFIGS = architectures()
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
# One for each reason.
REFUSED = ["mobilebert", "bart", "fnet", "perceiver", "xmod, no default language", "deberta, its own head"]


def documented() -> Mapping[str, Sequence[str]]:
    """The cells of each row of the page by architecture; a refused one has its class and the reason."""
    rows = re.findall(r"^\|(.+)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return {name: others for name, *others in cells if name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_architecture_works_exactly_or_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    tried = try_architecture(name, CONFIGS[name], tmp_path)

    if tried.refusal is None:
        assert tried.vectors <= LARGEST_DIFFERENCE[tried.dtype]
        assert tried.gradient <= LARGEST_DIFFERENCE[tried.dtype]
        require_positions_are_known(tmp_path)
    else:
        assert tried.refusal.startswith(f"--model-name {tmp_path}: ")
        assert tried.class_name in tried.refusal
        assert "\n" not in tried.refusal
    if name in documented():  # another version of transformers may have others
        assert (tried.refusal is not None) == (len(documented()[name]) == 2)


def require_positions_are_known(folder: Path) -> None:
    """A text of the largest length that is allowed has vectors, and a longer one is refused."""
    encoder = SpladeEncoder.from_pretrained(str(folder))
    limit = encoder.position_limit
    longest = 200 if limit is None else limit
    encoder.require_positions(longest)
    with torch.no_grad():
        vectors = encoder(pad([[9] * longest, [8] * 5], pad_token_id=0))
    assert vectors.isfinite().all()
    if limit is not None:
        with pytest.raises(ConfigError, match=f"--max-length {limit + 1}: this model takes at most {limit} tokens"):
            encoder.require_positions(limit + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_plan_refuses_what_a_training_refuses(name: str, tmp_path: Path) -> None:
    tried = load_architecture(name, CONFIGS[name], tmp_path)

    if isinstance(tried, SpladeEncoder):
        can = can_be_planned(tmp_path)
        if name in documented():
            assert documented()[name][2] == ("yes" if can else "no")
        return
    with pytest.raises(ConfigError) as refused:
        can_be_planned(tmp_path)
    assert tried.refusal
    assert tried.class_name in str(refused.value)
    if "cannot be loaded" not in tried.refusal:  # a plan says what is wrong with the architecture instead
        assert str(refused.value).partition("(")[0] == tried.refusal.partition("(")[0]


@pytest.mark.parametrize("verb", ["train", "plan", "fit", "evaluate"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_line_and_exit_code_two_of_every_verb(
    name: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLADE_BENCH_CACHE", str(tmp_path / "cache"))
    tried = try_architecture(name, CONFIGS[name], tmp_path / "model")
    triples = tmp_path / "triples.jsonl"
    triples.write_text(
        json.dumps({"query": "a", "positive_document": "b", "negative_documents": ["c"]}) + "\n", encoding="utf-8"
    )
    arguments = ["--model-name", str(tmp_path / "model"), "--device", "cpu", "--max-length", "12"]
    arguments += {
        "train": ["--train-file", str(triples), "--output-dir", str(tmp_path / "output")],
        "evaluate": ["--val-file", str(triples)],
        "plan": [],
        "fit": ["--budget", "8GiB"],
    }[verb]
    capsys.readouterr()

    code = main([verb, *arguments])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith(f"splade-bench {verb}: --model-name {tmp_path / 'model'}: {tried.class_name} cannot")
    assert captured.err.count("\n") == 1


def test_a_planner_that_fails_has_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(CONFIGS["bert"], tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise NotImplementedError("fake tensors cannot do this")

    monkeypatch.setattr("splade_bench.planner.plan.rehearse", fail)

    capsys.readouterr()
    for verb in ("plan", "fit"):  # for a device that is not measured first
        arguments = ["--model-name", str(tmp_path), "--device", "cuda", "--budget", "8GiB", "--max-length", "12"]
        assert main([verb, *arguments]) == 3
        complaint = capsys.readouterr().err
        assert "the planner fails: NotImplementedError: fake tensors cannot do this" in complaint
        assert complaint.count("\n") == 1


def test_a_small_config_keeps_the_choices_of_the_large_one() -> None:
    large = copy.deepcopy(CONFIGS["deberta-v2"])
    large.max_relative_positions = 7
    small: PretrainedConfig = miniature(large)

    assert (small.hidden_size, small.vocab_size, small.num_hidden_layers) == (32, 64, 2)
    assert (small.max_relative_positions, small.pos_att_type) == (7, large.pos_att_type)


def test_an_architecture_that_has_no_small_models_is_left_to_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(CONFIGS["bert"], tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("the hidden size must be a multiple of 48")

    monkeypatch.setattr("splade_bench.model.proving.miniature", fail)

    assert can_be_planned(tmp_path)
