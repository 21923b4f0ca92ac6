"""What results were measured on, and which runs did not end well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from splade_bench.measure.device import EVERYTHING, UNTESTED_ON_HARDWARE
from splade_bench.measure.machine import source_tree
from splade_bench.report.formatting import MISSING
from splade_bench.report.markdown import escape
from splade_bench.report.noise import noise_note
from splade_bench.report.page import Block, Table, Text, bullets
from splade_bench.report.readers import group_by
from splade_bench.results.conditions import conditions_of
from splade_bench.results.records import CallResult, CellResult, Result
from splade_bench.units import format_bytes

_SHOWN_CHARACTERS = 19  # of a hash


def measured_on(results: Sequence[Result]) -> list[Block]:
    """Machine, versions and code of the results, with a warning where their times must not be compared.

    A page depends on nothing but its results. :func:`changed_since` says if the code has changed since.
    """
    machines = group_by(results, machine_line)
    # As many machines of that kind as starts of a system, unless one was restarted in between.
    starts = {line: len({str(run.machine.get("boot")) for run in runs} - {"None"}) for line, runs in machines.items()}
    # Results without tensors have no number of threads. Several processes have as many as one: each records its own.
    known = {
        str(count * getattr(result, "processes", 1)) for result in results if (count := result.machine.get("threads"))
    }
    threads = sorted(known, key=lambda count: (len(count), count))
    several = "{} ({} such machines, or starts of one)"
    rows = [["machine", several.format(line, count) if count > 1 else line] for line, count in starts.items()]
    shards = dict.fromkeys(result.shard for result in results if result.shard)
    rows += [["shards", ", ".join(sorted(shards, key=lambda shard: (len(shard), shard)))]] if shards else []
    rows += [["threads", ", ".join(threads)]] if threads else []
    rows += [["versions", line] for line in dict.fromkeys(conditions_of(result)["versions"] for result in results)]
    for name in ("commit", "source_tree", "corpus_sha256"):
        values = dict.fromkeys(getattr(result, name, None) for result in results)
        rows += [[name.replace("_", " "), str(value)[:_SHOWN_CHARACTERS]] for value in values if value]
    cards = dict.fromkeys(str(result.machine.get("device")) for result in results)
    rows += [["accelerator", card] for card in cards if card not in ("None", "cpu")]
    devices = {getattr(result, "device", None) for result in results}
    untested = [name for name, what in UNTESTED_ON_HARDWARE.items() if what == EVERYTHING and name in devices]
    rows += [["device", f"{name}: untested on hardware by this project"] for name in untested]
    blocks: list[Block] = [Table(name="conditions", headings=["measured on", ""], rows=rows)]
    if len(machines) > 1:
        blocks.append(Text("**These results come from more than one machine: do not compare their times.**"))
    elif max(starts.values(), default=0) > 1:
        blocks.append(Text("**These results come from several machines of one kind: compare their times with care.**"))
    elif len(threads) > 1:
        blocks.append(Text("**These results come from different numbers of threads: do not compare their times.**"))
    return [*blocks, *noise_note(results)]


def changed_since(results: Sequence[Result]) -> str | None:
    """How many of the results are of other code than today's; None if all are of it."""
    current = source_tree()
    older = sum(result.source_tree not in (current, None) for result in results)
    return f"the code has changed since {older} of {len(results)} results were measured" if older else None


def counts(values: Iterable[str]) -> str:
    """How many there are of each value, such as statuses of runs: ``3 ok, 1 oom``."""
    return ", ".join(f"{count} {value}" for value, count in Counter(values).items()) or MISSING


def failures(results: Iterable[CellResult | CallResult]) -> list[Block]:
    """A list item for each run and for each memory pass that failed; nothing if none did."""
    lines = []
    for result in results:
        name = escape(result.name if isinstance(result, CallResult) else result.cell_id)
        if result.status != "ok":
            lines.append(f"{name}: {result.status}" + (f": {escape(result.error)}" if result.error else ""))
        for memory_pass, why in (result.pass_errors or {}).items():
            lines.append(f"{name}: {escape(memory_pass)} pass {escape(why)}")
    return bullets(list(dict.fromkeys(lines)), heading="Failed:")


def machine_line(result: Result) -> str:
    """Processor, cores, memory and system in one line."""
    machine = result.machine
    memory = machine.get("memory_bytes")
    size = format_bytes(memory) if isinstance(memory, int) else "?"
    return (
        f"{machine.get('processor')}, {machine.get('logical_cores')} logical cores, "
        f"{size}, {machine.get('system')} {machine.get('architecture')}"
    )
