"""A byte of a checkpoint is flipped, or a file of it is cut."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from reliability.commands import failure_line, run
from reliability.toy import SAVED_EVERY, Toy
from splade_bench.errors import DataError
from splade_bench.training.checkpoints import Checkpoint, Checkpoints

EXPECTED = "the checkpoint is refused and the file named; latest is the checkpoint before it"


def damage_files(damages: int, *, seed: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: every file in turn is damaged, judged, and made whole again.

    The first damage of each file is also given to ``train`` itself, by the checkpoint's path.
    """
    generator, seen, failures = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        output = folder / "output"
        run(toy.command(output, "--save-total-limit", "4", steps=2 * SAVED_EVERY))
        checkpoints = Checkpoints(output)
        older, newest = checkpoints.all()
        files = sorted(path for path in newest.path.rglob("*") if path.is_file())
        for number in range(damages):
            path = files[number % len(files)]
            whole = path.read_bytes()
            kind, damaged = _damage(whole, generator)
            path.write_bytes(damaged)
            failure = _unnoticed(checkpoints, newest, older, path)
            if number < len(files):
                failure = failure or _accepted(toy, output, newest, path)
            path.write_bytes(whole)
            seen[f"{kind} and {'MISSED' if failure else 'noticed'}"] += 1
            failures += [failure_line(folder, f"{path.name}, {kind}", failure)] if failure else []
        newest.verify()
    return {
        "campaign": "damage",
        "fault": f"a bit flipped or a file cut, in {len(files)} files",
        "expected": EXPECTED,
        "tried": sum(seen.values()),
        "seen": dict(seen),
        "failures": failures,
        "seed": seed,
    }


def _damage(whole: bytes, generator: random.Random) -> tuple[str, bytes]:
    place = generator.randrange(len(whole))
    if generator.random() < 0.5:
        return "cut", whole[:place]
    flipped = whole[place] ^ (1 << generator.randrange(8))
    return "flipped", whole[:place] + bytes([flipped]) + whole[place + 1 :]


def _unnoticed(checkpoints: Checkpoints, newest: Checkpoint, older: Checkpoint, path: Path) -> str | None:
    try:
        newest.verify()
    except DataError as error:
        if path.name not in str(error):
            return f"the file is not named: {error}"
    else:
        return "not noticed"
    return None if checkpoints.newest_sound() == older else "latest is not the checkpoint before it"


def _accepted(toy: Toy, output: Path, newest: Checkpoint, path: Path) -> str | None:
    """What is wrong with the command that is asked to go on from the damaged checkpoint."""
    named = run([*toy.command(output, steps=2 * SAVED_EVERY), "--resume-from-checkpoint", str(newest.path)])
    if named.exit_code != 2 or path.name not in named.output:
        return f"by path: exit code {named.exit_code}: {named.output}"
    return named.complaint()
