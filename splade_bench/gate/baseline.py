"""The committed baseline file of a gate: figures of each cell, their conditions, and what helps to find a cause."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from splade_bench.errors import DataError, one_line
from splade_bench.files import not_written, write_whole_file
from splade_bench.gate.cells import GatedCell, require_possible
from splade_bench.json_records import parse_record
from splade_bench.results.figures import GATED

BASELINE_VERSION = 1
UPDATE_FLAGS = "--update-baseline (pytest: --memory-update-baseline)"
_MAKE_IT = f"make one with {UPDATE_FLAGS}"


def read_baseline(path: Path) -> dict[str, GatedCell]:
    """The cells of a baseline file.

    Raises:
        DataError: it is missing, empty, not a baseline, from another version, or has a cell twice or a figure that is
            out of range.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the baseline cannot be read: {error}; {_MAKE_IT}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not a baseline: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("cells"), dict):
        raise DataError(f"{path}: is not a baseline (no cells); {_MAKE_IT}")
    if record.get("baseline_version") != BASELINE_VERSION:
        raise DataError(
            f"{path}: was written by another version of splade-bench (baseline_version "
            f"{record.get('baseline_version')}; this one reads {BASELINE_VERSION}); measure again"
        )
    if not record["cells"]:
        raise DataError(f"{path}: the baseline has no cells; {_MAKE_IT}")
    return {name: _parse_cell(f"{path}: {name}", cell) for name, cell in record["cells"].items()}


def write_baseline(path: Path, cells: Mapping[str, GatedCell]) -> None:
    """Write a baseline whole or not at all: sorted, one figure a line, so that a change reads as a diff.

    Raises:
        DataError: there are no cells, a cell or a memory pass failed, or the file cannot be written.
    """
    if not cells:
        raise DataError(f"{path}: not written: there are no cells")
    for name, cell in cells.items():
        if cell.status not in ("ok", "oom"):  # a cell may be known to run out of memory; anything else is a fault
            raise DataError(f"{path}: not written: {one_line(name)} has the status {cell.status}")
        if cell.pass_errors:
            failed = ", ".join(f"its {name} pass failed: {error}" for name, error in cell.pass_errors.items())
            raise DataError(f"{path}: not written: {one_line(f'{name}: {failed}')}")
    kept = {name: asdict(cell) for name, cell in cells.items()}
    for cell_record in kept.values():
        del cell_record["pass_errors"]
    record = {"baseline_version": BASELINE_VERSION, "cells": kept}
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_file(path, text)
    except OSError as error:
        raise DataError(f"{path}: the baseline {not_written(path, error)}") from error


def _parse_cell(where: str, record: Any) -> GatedCell:
    try:
        cell = parse_record(record, GatedCell)
    except ValueError as error:
        raise DataError(f"{one_line(where)}: {error}") from error
    figures, spread = (
        {name: value for name, value in values.items() if name in GATED} for values in (cell.figures, cell.spread)
    )
    for name, value in [*figures.items(), *spread.items()]:
        require_possible(where, GATED[name], value)
    return replace(cell, figures=figures, spread=spread)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in pairs:
        if name in record:
            raise ValueError(f"this file has {name} twice")
        record[name] = value
    return record
