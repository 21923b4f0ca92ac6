"""A training of a second: a toy model with dropout, 24 queries, several batches in an optimizer step."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.model.presets import build_preset
from splade_bench.training.checkpoints import Checkpoints

WORDS = ("parser", "socket", "buffer", "thread", "window", "archive", "cursor", "matrix", "opens", "closes", "copies")
VOCAB_SIZE = 256
MODES = ("memory-efficient", "standard", "minimal-memory", "memory-efficient+optimizer-states-bfloat16")
SAVED_EVERY = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy:
    """The model and data of a toy training."""

    model: Path
    train_file: Path
    val_file: Path

    @classmethod
    def make(cls, folder: Path) -> Toy:
        """Write them into an existing folder."""
        toy = cls(model=folder / "toy", train_file=folder / "train.jsonl", val_file=folder / "val.jsonl")
        generator = random.Random(1)
        for path, queries in ((toy.train_file, 24), (toy.val_file, 8)):
            path.write_text("".join(json.dumps(record(generator)) + "\n" for _ in range(queries)), encoding="utf-8")
        encoder = build_preset(
            "toy", train_tokenizer(WORDS, vocab_size=VOCAB_SIZE), seed=0, dropout=0.1, attention_dropout=0.1
        )
        encoder.save_pretrained(toy.model)
        return toy

    def command(self, output: Path, *flags: str, steps: int, mode: str = MODES[0]) -> list[str]:
        """The command of a training that saves and evaluates often, and goes on where one in ``output`` was."""
        return [
            *["train", "--device", "cpu", "--model-name", str(self.model), "--memory-mode", mode],
            *["--train-file", str(self.train_file), "--val-file", str(self.val_file), "--output-dir", str(output)],
            *["--max-length", "16", "--batch-size", "4", "--gradient-accumulation-steps", "2"],
            *["--learning-rate", "1e-3", "--max-steps", str(steps), "--eval-steps", str(SAVED_EVERY), "--save-best"],
            *["--save-steps", str(SAVED_EVERY), "--resume-from-checkpoint", "latest", *flags],
        ]


def record(generator: random.Random, *, words: tuple[int, int] = (2, 12)) -> dict[str, object]:
    """A line of a training file, with texts of so many words."""

    def text() -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(*words)))

    return {"query": text(), "positive_document": text(), "negative_documents": [text(), text()]}


def weights(output: Path) -> Sequence[str]:
    """Hashes of all that a finished training learned: its model, and model and moments of its newest checkpoint."""
    checkpoint = Checkpoints(output).all()[-1].path
    names = ("model.safetensors", "optimizer.safetensors")
    files = [output / "final_model" / names[0], *(checkpoint / name for name in names)]
    return [checkpoint.name, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)]


def debris(output: Path) -> list[str]:
    """Hidden names that a training left, apart from its lock."""
    if not output.is_dir():
        return []
    return sorted(path.name for path in output.iterdir() if path.name.startswith(".") and path.name != ".lock")
