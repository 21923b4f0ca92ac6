"""Figures of several results, and results in groups."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from splade_bench.report.formatting import median_and_range
from splade_bench.results.figures import Reader
from splade_bench.results.records import CellResult, Measurement
from splade_bench.units import as_gib, as_mib

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
AnyMeasurement = TypeVar("AnyMeasurement", bound=Measurement)


def recorded(name: str) -> Reader:
    """Reads the field or metric with this name in a results file."""
    return lambda result: result.figure(name)


def mrr_before(result: CellResult) -> float | None:
    """MRR@10 before training."""
    return (result.metrics_before or {}).get("mrr@10")


def in_mib(reader: Reader) -> Reader:
    """Reads the same figure in MiB."""
    return lambda result: None if (size_bytes := reader(result)) is None else as_mib(size_bytes)


def in_gib(reader: Reader) -> Reader:
    """Reads the same figure in GiB."""
    return lambda result: None if (size_bytes := reader(result)) is None else as_gib(size_bytes)


def succeeded(results: Iterable[AnyMeasurement]) -> list[AnyMeasurement]:
    """The results with status ``ok``."""
    return [result for result in results if result.status == "ok"]


def values_of(results: Iterable[AnyMeasurement], reader: Callable[[AnyMeasurement], float | None]) -> list[float]:
    """A figure of each result that has it."""
    return [value for result in results if (value := reader(result)) is not None]


def median_of(results: Iterable[CellResult], reader: Reader) -> float | None:
    """The median of a figure over the results that have it; None if none has."""
    values = values_of(results, reader)
    return statistics.median(values) if values else None


def over_runs(results: Iterable[CellResult], reader: Reader, form: str) -> str:
    """Median and range of a figure over the results that have it, as text."""
    return median_and_range(values_of(results, reader), form)


def by_workload(results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    """Results by workload and device, under a name such as ``tiny`` on a CPU and ``tiny-cuda`` elsewhere."""
    return group_by(results, lambda run: run.workload if run.device == "cpu" else f"{run.workload}-{run.device}")


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by their key, in the order in which they come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
