"""``splade-bench doctor``: what can be measured on this machine, and how accurately."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from splade_bench.bench.calls import CallRunner, call_request
from splade_bench.bench.known_blocks import touch_block
from splade_bench.cli.arguments import parse, show
from splade_bench.device import mps
from splade_bench.device.devices import available_devices
from splade_bench.measure.control_group import container_limit_bytes
from splade_bench.measure.device import UNTESTED_ON_HARDWARE
from splade_bench.measure.machine import machine_info, versions
from splade_bench.measure.rss import NOT_MEASURED
from splade_bench.measure.usage import usage_now
from splade_bench.report.formatting import MISSING, number
from splade_bench.results.figures import PROBES
from splade_bench.units import format_bytes
from splade_bench.worker.known_tensors import fill_tensor

_KNOWN_BYTES = 128 * 2**20
_HOLD_S = 0.2
_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCommand:
    """Show this machine, the figures that can be measured on it, and how accurately each probe reads known memory.

    For each kind of accelerator, say what was never run on one. On a Mac, show the limits of MPS's allocator and the
    defects of the installed torch there.

    Exit codes:
      0  every available probe is accurate
      1  a probe is not accurate
      2  usage error
    """

    json: bool = False
    """Print one JSON object to standard output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A probe's reading of a known amount of memory."""

    probe: str
    source: str
    read_bytes: float | None
    allowed_error_ratio: float
    available: bool = True
    """Whether this machine has the probe. An available probe that reads nothing is not accurate."""
    expected_bytes: int = _KNOWN_BYTES

    @property
    def error_ratio(self) -> float | None:
        return None if self.read_bytes is None else self.read_bytes / self.expected_bytes - 1

    @property
    def holds(self) -> bool:
        """Whether the probe is accurate, or not available."""
        if self.error_ratio is None:
            return not self.available
        return abs(self.error_ratio) <= self.allowed_error_ratio


def run(arguments: Sequence[str]) -> int:
    """Print the readings; the exit code."""
    command = parse(DoctorCommand, arguments, verb="doctor")
    readings = calibrate()
    record = {
        "machine": machine_info(),
        "container_limit_bytes": container_limit_bytes(),
        "versions": versions(),
        "devices": available_devices(),
        "untested_on_hardware": dict(UNTESTED_ON_HARDWARE),
        "mps": mps_limits(),
        "probes": [asdict(one) | {"error_ratio": one.error_ratio, "holds": one.holds} for one in readings],
        "not_available": not_available(readings),
    }
    show(record, _text(record), as_json=command.json)
    return 0 if all(reading.holds for reading in readings) else 1


def calibrate() -> list[Reading]:
    """Let each probe read a known amount in a process of its own. Takes some seconds, mostly to import torch."""
    block = CallRunner(timeout_s=_TIMEOUT_S, memory_passes=("heap", "pinned"), memory_timeline=True).measure(
        "block", call_request(touch_block, _KNOWN_BYTES, _HOLD_S)
    )
    tensor = CallRunner(timeout_s=_TIMEOUT_S, memory_passes=("live",)).measure(
        "tensor", call_request(fill_tensor, _KNOWN_BYTES)
    )
    has_peak = not (block.peak_rss_source or "").startswith(NOT_MEASURED)
    available = {
        "peak_rss_bytes": has_peak,
        "pinned_peak_rss_bytes": has_peak and platform.libc_ver()[0] == "glibc",
        "memray_peak_bytes": importlib.util.find_spec("memray") is not None,
    }
    sources = {"peak_rss_bytes": block.peak_rss_source}
    return [
        Reading(
            probe=figure.name,
            source=sources.get(figure.name) or probe.source,
            read_bytes=figure.added(tensor if figure.memory_pass == "live" else block),
            allowed_error_ratio=probe.calibration_limit,
            available=available.get(figure.name, True),
        )
        for figure, probe in PROBES
    ]


def not_available(readings: Sequence[Reading]) -> list[str]:
    """The figures that results of this machine do not have."""
    missing = [reading.probe for reading in readings if reading.read_bytes is None]
    missing += [name for name, total in usage_now().items() if total is None]
    if available_devices() == ["cpu"]:
        missing += ["device_peak_allocated_bytes", "device_peak_reserved_bytes"]
    return missing


def mps_limits() -> dict[str, Any] | None:
    """The limits of MPS's allocator, and the defects of the installed torch there; None without such a device."""
    if "mps" not in available_devices():
        return None
    import torch

    return {
        **mps.watermarks(torch.mps.recommended_max_memory()),
        "fault": mps.watermark_fault(),
        "defects": [asdict(one) for one in mps.DEFECTS if one.concerns(torch.__version__)],
    }


def _text(record: Mapping[str, Any]) -> str:
    machine, limit_bytes = record["machine"], record["container_limit_bytes"]
    facts = {
        "machine": f"{machine['processor']}, {machine['logical_cores']} logical cores, {machine['system']}",
        "memory": MISSING if machine["memory_bytes"] is None else format_bytes(machine["memory_bytes"]),
        "container": "no limit" if limit_bytes is None else format_bytes(limit_bytes),
        "devices": ", ".join(record["devices"]),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "unavailable": ", ".join(record["not_available"]) or "nothing",
        **{f"{name} untested": f"{what} (never run on such a device)" for name, what in UNTESTED_ON_HARDWARE.items()},
        **_mps_facts(record["mps"]),
    }
    rows = [
        [
            one["probe"],
            one["source"],
            MISSING if one["read_bytes"] is None else f"{one['read_bytes']} bytes",
            number(one["error_ratio"], "+.2%"),
            f"{one['allowed_error_ratio']:.1%}",
            MISSING if one["read_bytes"] is None else "accurate" if one["holds"] else "NOT ACCURATE",
        ]
        for one in record["probes"]
    ]
    table = tabulate(rows, headers=["probe", "source", "reading", "error", "allowed error", ""])
    heading = f"Each probe's reading of {format_bytes(_KNOWN_BYTES)}:"
    return "\n".join([*(f"{name:15}{fact}" for name, fact in facts.items()), "", heading, "", table])


def _mps_facts(limits: Mapping[str, Any] | None) -> dict[str, str]:
    if limits is None:
        return {}
    sizes = {
        name: "none" if limits[f"{name}_bytes"] is None else format_bytes(limits[f"{name}_bytes"])
        for name in ("recommended", "high_watermark", "low_watermark")
    }
    facts = {"mps memory": ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in sizes.items())}
    if limits["fault"]:
        facts["mps fault"] = limits["fault"]
    defects = {f"torch #{one['issue']}": f"{one['seen']}. Here: {one['avoided']}" for one in limits["defects"]}
    return facts | defects
