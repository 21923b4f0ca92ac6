"""The training files and folders of docs/data.md, and what is in them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.records import Triple

GUIDE = Path(__file__).parents[2] / "docs" / "data.md"
PAY = Triple(query="how do I pay?", positive="Pay with a card.", negatives=("Close the door.",))
PAIR = Triple(query="how do I pay?", positive="Pay with a card.")
WHERE = Triple(query="where is it?", positive="On shelf 3.")
# What each file or folder of the guide holds.
EXAMPLES: dict[str, list[Triple]] = {
    "ours.jsonl": [
        Triple(query="how do I pay?", positive="Pay with a card.", negatives=("Close the door.", "Open it.")),
        Triple(
            query="where is it?",
            positive="On shelf 3.",
            other_positives=("Third shelf.",),
            negatives=("Open it.",),
            teacher_scores=(9.5, 8, -1.5),
        ),
    ],
    "wrapped.json": [PAIR],
    "columns.jsonl": [
        replace(PAY, teacher_scores=(0, -2.5)),
        WHERE,
        Triple(
            query="where is it?",
            positive="On shelf 3.",
            negatives=("Open it.", "Close it."),
            teacher_scores=(9, 1, 0.5),
        ),
        Triple(query="a red hat", positive="a hat that is red", teacher_scores=(0.9,)),
    ],
    "pos-neg.jsonl": [
        Triple(
            query="where is it?",
            positive="On shelf 3.",
            other_positives=("Third shelf.",),
            negatives=("Open it.",),
            teacher_scores=(3, 2, -1),
        ),
        PAIR,
    ],
    "lists.jsonl": [PAIR, Triple(query="where is it?", positive="On shelf 3.", negatives=("Open it.", "Close it."))],
    "table.csv": [
        Triple(
            query="how do I pay?",
            positive='Pay with a card, or "cash".',
            negatives=("Close the door.",),
            teacher_scores=(9, 1),
        ),
        Triple(
            query="where is it?",
            positive="On shelf 3.",
            negatives=("Open it.", "Close it."),
            teacher_scores=(9, 1, 0.5),
        ),
    ],
    "triples.tsv": [PAY, Triple(query='where is "it"?', positive="On shelf 3.", negatives=("Open it.",))],
    "train.parquet": [PAY],
    "beir": [
        Triple(query="how do I pay?", positive="Paying Pay with a card.", negatives=("Close the door.",)),
        Triple(query="where is it?", positive="Third shelf.", other_positives=("On shelf 3.",)),
    ],
    "light-splade": [
        Triple(
            query="how do I pay?",
            positive="Pay with a card.",
            negatives=("Open it.", "Close the door."),
            teacher_scores=(0.95, 0.5, 0.25),
        )
    ],
    "ms-marco": [PAY, Triple(query="where is it?", positive="On shelf 3.", negatives=("Close the door.",))],
}


def write_examples(folder: Path) -> Path:
    """Write the guide's files into an empty folder."""
    text = GUIDE.read_text(encoding="utf-8")
    for name, content in re.findall(r"^`([\w./-]+)`:\n\n```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    subprocess.run([sys.executable, "write_parquet.py"], cwd=folder, check=True)
    (folder / "write_parquet.py").unlink()
    return folder


def read(path: Path, **settings: Any) -> list[Triple]:
    """The training examples of a file or folder."""
    return list(file_corpus(path, None, **settings).triples)
