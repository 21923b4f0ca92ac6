"""What is saved here opens in transformers 4: the same tokens and the same logits.

``tox -e transformers-4`` installs it into a folder of its own, which ``TRANSFORMERS_4`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import make_model, wrap
from tokenizers import Tokenizer
from transformers import BertTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerBase, RobertaTokenizer

from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.model.sparse_encoder_files import write_sparse_encoder_files

FOLDER = os.environ.get("TRANSFORMERS_4")
pytestmark = pytest.mark.skipif(not FOLDER, reason="TRANSFORMERS_4 names no folder with transformers 4")

TEXTS = ["who opens the parser", "this function copies the window with a name and a size"]
SCRIPT = """
import json, sys
import torch, transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model, loading = AutoModelForMaskedLM.from_pretrained(sys.argv[1], output_loading_info=True)
batch = tokenizer(json.loads(sys.argv[2]), padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
torch.save({
    "version": transformers.__version__,
    "missing": sorted(loading["missing_keys"]),
    "unexpected": sorted(loading["unexpected_keys"]),
    "dtype": str(model.dtype),
    "ids": batch["input_ids"],
    "logits": logits,
}, sys.argv[3])
"""
WORDS = sorted({word for text in TEXTS for word in text.split()})


def bert_tokenizer() -> PreTrainedTokenizerBase:
    return BertTokenizer(
        vocab={word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    )


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    letters = [*map(chr, range(ord("a"), ord("z") + 1)), "\u0120"]
    return RobertaTokenizer(
        vocab={x: n for n, x in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}, merges=[]
    )


def deberta_tokenizer() -> PreTrainedTokenizerBase:
    letters = [(letter, -1.0) for letter in [*map(chr, range(ord("a"), ord("z") + 1)), "\u2581"]]
    special = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")]
    return DebertaV2Tokenizer(vocab=[*special, *letters])


def opened(folder: Path, result: Path) -> Mapping[str, Any]:
    """What transformers 4 makes of a folder."""
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(TEXTS), str(result)]
    finished = subprocess.run(command, env=environment, cwd=result.parent, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-2000:]
    found: dict[str, Any] = torch.load(result)
    assert found["version"].startswith("4.")
    return found


def require_equal(encoder: SpladeEncoder, folder: Path, result: Path) -> None:
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    encoder.eval()
    with encoder.whole_model() as model, torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    found = opened(folder, result)

    assert not found["missing"], found["missing"]
    assert not found["unexpected"], found["unexpected"]
    assert found["dtype"] == "torch.float32"
    assert torch.equal(found["ids"], batch["input_ids"])
    torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "architecture",
    [
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "electra",
        "mpnet",
        "modernbert",
        "albert",
        "deberta-v2",
        "deberta",
        "distilbert",
    ],
)
def test_an_architecture(architecture: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wrapped = wrap(tokenizer)
    encoder = SpladeEncoder(make_model(architecture, vocab_size=len(wrapped)), wrapped)
    encoder.save_pretrained(tmp_path / "model")

    require_equal(encoder, tmp_path / "model", tmp_path / "result")


@pytest.mark.parametrize(
    ("architecture", "make_tokenizer"),
    [("bert", bert_tokenizer), ("roberta", roberta_tokenizer), ("deberta-v2", deberta_tokenizer)],
)
def test_a_tokenizer_of_its_own_class(
    architecture: str, make_tokenizer: Callable[[], PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    made = make_tokenizer()
    encoder = SpladeEncoder(make_model(architecture, vocab_size=len(made), max_position_embeddings=80), made)
    encoder.save_pretrained(tmp_path / "model")

    require_equal(encoder, tmp_path / "model", tmp_path / "result")
    assert len(set(made(TEXTS[0])["input_ids"])) > 4


@pytest.mark.parametrize("static", [False, True], ids=["model", "static queries"])
def test_the_model_of_a_sparse_encoder(static: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoder = build_preset("toy", tokenizer, seed=0)
    if static:
        encoder.use_static_queries()
    encoder.save_pretrained(tmp_path / "model")
    write_sparse_encoder_files(tmp_path / "model", encoder)

    require_equal(encoder, tmp_path / "model", tmp_path / "result")
