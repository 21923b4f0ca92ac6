"""Results, baselines and states of checkpoints with values that do not belong there."""

from __future__ import annotations

import copy
import json
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from reliability.calls import Called, Judged, call
from reliability.commands import Ended, run
from reliability.toy import SAVED_EVERY, Toy
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CallResult, CellResult, Result, append_result
from splade_bench.training.checkpoints import MANIFEST, Checkpoints

MIB = 2**20
ODD_VALUES: Sequence[Any] = (
    *(None, True, -1, 0, 2**63, 1e308, float("nan"), float("inf"), 0.5, "", "text", "\ud800", "$x$|`<b>\x1b[31m"),
    *([], {}, [None], [[]], {"": None}, {"a": {"a": []}}, [1, "a"], "9" * 400, -(2**70)),
)
# Room for torch and a toy; a state that asks for more must not take the machine with it.
_ADDRESS_SPACE_BYTES = 2 * 2**30


def read_gate_files(count: int, *, seed: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: ``check`` with a regression and a bad file.

    Whatever is wrong with the results or the baseline, a regression must never look like success.
    """
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        judged = Judged(folder)
        results, baseline = folder / "results.jsonl", folder / "baseline.json"
        whole = {baseline: _baseline(folder, baseline), results: _results(folder, [2.0, 2.0, 1.0])}
        for _ in range(count):
            for path, content in whole.items():
                path.write_bytes(content)
            victim = generator.choice([*whole])
            # The first two lines have the regression.
            kept = 2 if victim == results else 0
            victim.write_bytes(damaged_json(whole[victim], generator, kept_lines=kept))
            called = call(["check", "--results", str(results), "--baseline", str(baseline)])
            fault = _fault(called, "check", (1, 2, 3), one_line_for=(2,))
            judged.add(f"{victim.stem}: exit code {called.ended.exit_code}", fault, victim.read_bytes()[-200:])
    expected = "a regression is never exit code 0; a bad file is exit code 2 and one line"
    return judged.fields(fault="bad results and baselines for check", expected=expected, seed=seed)


def read_results_files(count: int, *, seed: int) -> dict[str, Any]:
    """The same for ``compare`` and ``report``, which give no verdict: pages are written whole or not at all."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        judged = Judged(folder)
        before, bad, pages = folder / "before.jsonl", folder / "bad.jsonl", folder / "pages"
        before.write_bytes(_results(folder, [1.0]))
        whole = b"".join(json.dumps(_call(number)).encode() + b"\n" for number in range(3))
        for number in range(count):
            bad.write_bytes(damaged_json(whole if number % 2 else before.read_bytes(), generator))
            if number % 2:
                called = call(["report", "--results", str(bad), "--output", str(pages)])
                fault = _fault(called, "report", (0, 2)) or _half_written(pages, called)
                shutil.rmtree(pages, ignore_errors=True)
            else:
                called = call(["compare", str(before), str(bad), "--json"])
                fault = _fault(called, "compare", (0, 2, 3), one_line_for=(2,))
            judged.add(f"exit code {called.ended.exit_code}", fault, bad.read_bytes()[-200:])
    expected = "exit code 2 and one line, or a whole answer"
    return judged.fields(fault="bad results for compare and report", expected=expected, seed=seed)


def read_checkpoints(count: int, *, seed: int) -> dict[str, Any]:
    """The same for the JSON files of a checkpoint, whose manifest says that they are as they should be."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy, judged = Toy.make(folder), Judged(folder)
        whole = folder / "whole"
        run(toy.command(whole, steps=SAVED_EVERY))
        checkpoint = Checkpoints(whole).all()[-1]
        names = sorted(path.name for path in checkpoint.path.glob("*.json") if path.name != MANIFEST)
        for number in range(count):
            output, name = folder / str(number), generator.choice(names)
            damaged = damaged_json((checkpoint.path / name).read_bytes(), generator)

            def write(target: Path, name: str = name, damaged: bytes = damaged) -> None:
                shutil.copytree(checkpoint.path, target, dirs_exist_ok=True)
                (target / MANIFEST).unlink()
                (target / name).write_bytes(damaged)

            output.mkdir()
            Checkpoints(output).save(checkpoint.step, write)
            ended = run(toy.command(output, steps=2 * SAVED_EVERY), before=_limit_memory)
            judged.add(
                f"{name}: exit code {ended.exit_code}", ended.complaint() or _lost(ended, output), damaged[-200:]
            )
            shutil.rmtree(output)
    expected = "exit code 1 or 2 and one line, or a whole model and record"
    return judged.fields(fault="bad JSON in a checkpoint with a sound manifest", expected=expected, seed=seed)


def damaged_json(whole: bytes, generator: random.Random, *, kept_lines: int = 0) -> bytes:
    """JSON or JSON Lines after an odd value, a missing key, a cut or a flip, behind the first ``kept_lines`` lines."""
    lines = whole.splitlines(keepends=True)
    kept, rest = b"".join(lines[:kept_lines]), lines[kept_lines:]
    kind = generator.randrange(10)
    if kind < 2 and rest:
        content = bytearray(b"".join(rest))
        place = generator.randrange(len(content))
        if kind == 0:
            return kept + bytes(content[:place])
        content[place] ^= 1 << generator.randrange(8)
        return kept + bytes(content)
    try:
        documents = [json.loads(b"".join(rest))]
    except ValueError:
        documents = [json.loads(line) for line in rest]
    place = generator.randrange(len(documents))
    for _ in range(generator.randint(1, 2)):
        documents[place] = _odd(documents[place], generator)
    return kept + b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def _odd(document: Any, generator: random.Random) -> Any:
    """The document with one value at a random depth exchanged, or its key gone."""
    if not isinstance(document, (dict, list)) or not document or generator.random() < 0.1:
        return copy.deepcopy(generator.choice(ODD_VALUES))
    changed = copy.copy(document)
    key: Any = generator.choice([*document]) if isinstance(document, dict) else generator.randrange(len(document))
    if generator.random() < 0.15:
        del changed[key]
    else:
        changed[key] = _odd(changed[key], generator)
    return changed


def _results(folder: Path, factors: Sequence[float]) -> bytes:
    """A results file with a cell for each factor of all its figures."""
    path = folder / "made.jsonl"
    for number, factor in enumerate(factors, 1):
        append_result(path, _cell(number, factor))
    content = path.read_bytes()
    path.unlink()
    return content


def _baseline(folder: Path, path: Path) -> bytes:
    made = folder / "before.jsonl"
    made.write_bytes(_results(folder, [1.0, 1.0, 1.0]))
    if call(["check", "--results", str(made), "--baseline", str(path), "--update-baseline"]).ended.exit_code:
        raise RuntimeError("a baseline cannot be written")
    return path.read_bytes()


def _cell(batch_size: int, factor: float) -> CellResult:
    cell = Cell(
        workload="tiny", device="cpu", batch_size=batch_size, gradient_accumulation_steps=1, memory_mode="standard"
    )
    result = CellResult.of_cell(
        cell,
        status="ok",
        live_peak_bytes=int(1000 * MIB * factor),
        peak_rss_bytes=int(1500 * MIB * factor),
        baseline_rss_bytes=400 * MIB,
        final_loss=2.0 * factor,
        metrics={"mrr@10": 0.6 / factor},
        corpus_sha256="c",
    )
    made: CellResult = _on_machine(result)
    return made


def _call(number: int) -> dict[str, Any]:
    result = CallResult(name=f"test_{number}", status="ok", peak_rss_bytes=300 * MIB, wall_time_s=1.5)
    on_machine: dict[str, Any] = json.loads(_on_machine(result).to_json())
    return on_machine


def _on_machine(result: Any) -> Any:
    machine = {"system": "Linux", "processor": "P", "logical_cores": 2, "threads": 2, "memory_bytes": 2**33}
    known = {one.name for one in fields(Result)}
    conditions = {"machine": machine, "versions": {"torch": "2.13.0", "python": "3.11.7"}, "started_at": "2026-01-01"}
    return replace(result, **{name: value for name, value in conditions.items() if name in known})


def _fault(called: Called, verb: str, codes: Sequence[int], one_line_for: Sequence[int] = (1, 2)) -> str | None:
    ended = called.ended
    if ended.exit_code in (1, 3) and ended.exit_code not in one_line_for:
        ended = replace(ended, exit_code=0)
        codes = (*codes, 0)
    return ended.complaint(verb=verb, codes=codes)


def _half_written(pages: Path, called: Called) -> str | None:
    files = [path for path in pages.rglob("*") if path.is_file()] if pages.is_dir() else []
    if called.ended.exit_code:
        return f"refused, but wrote {[path.name for path in files]}" if files else None
    if not (pages / "report.html").is_file():
        return "exit code 0 without report.html"
    torn = [path.name for path in files if not path.read_bytes().rstrip().endswith((b"</html>", b"|", b"."))]
    return f"half written: {torn}" if torn else None


def _lost(ended: Ended, output: Path) -> str | None:
    """Exit code 0 promises a model and its record."""
    if ended.exit_code:
        return None
    read: Callable[[], Any] = lambda: json.loads((output / "run.json").read_text(encoding="utf-8"))  # noqa: E731
    if not (output / "final_model" / "model.safetensors").is_file() or read()["optimizer_steps"] != 2 * SAVED_EVERY:
        return "exit code 0 without a model and its record"
    return None


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
