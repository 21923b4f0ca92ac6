"""``splade-bench doctor``: what this machine has, what can be measured on it, and how well."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.known_blocks import touch_block
from splade_bench.cli.arguments import parse, print_json
from splade_bench.device.devices import available_devices
from splade_bench.measure.control_group import container_limit_bytes
from splade_bench.measure.device import UNTESTED_ON_HARDWARE
from splade_bench.measure.machine import machine_info, versions
from splade_bench.measure.usage import Usage
from splade_bench.report.markdown import markdown
from splade_bench.report.probes import PROBES
from splade_bench.report.tables import MISSING
from splade_bench.units import format_bytes
from splade_bench.worker.known_tensors import fill_tensor

_KNOWN_BYTES = 128 * 2**20
_HOLD_S = 0.2
_TIMEOUT_S = 120.0
_SOURCES = {
    "sampled_peak_rss_bytes": "resident memory every 10 ms",
    "pinned_peak_rss_bytes": "the kernel's mark, allocator pinned",
    "memray_peak_bytes": "memray",
    "live_peak_bytes": "torch's operators",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCommand:
    """Say what this machine has, which figures can be taken on it, and how well each probe reads a known amount.

    Exit codes: 0 every probe that is there reads it back, 1 one does not, 2 usage.
    """

    json: bool = False
    """Print one JSON object on standard output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a probe said of a known amount."""

    probe: str
    source: str
    read_bytes: int | None
    allowed_error_ratio: float
    available: bool = True
    """Whether this machine has it; one that is there and read nothing does not hold."""
    expected_bytes: int = _KNOWN_BYTES

    @property
    def error_ratio(self) -> float | None:
        return None if self.read_bytes is None else self.read_bytes / self.expected_bytes - 1

    @property
    def holds(self) -> bool:
        if self.error_ratio is None:
            return not self.available
        return abs(self.error_ratio) <= self.allowed_error_ratio


def run(arguments: Sequence[str]) -> int:
    """Print the findings; the exit code."""
    command = parse(DoctorCommand, arguments, verb="doctor")
    readings = calibrate()
    if command.json:
        print_json(
            {
                "machine": machine_info(),
                "container_limit_bytes": container_limit_bytes(),
                "versions": versions(),
                "devices": available_devices(),
                "untested_on_hardware": list(UNTESTED_ON_HARDWARE),
                "probes": [
                    asdict(reading) | {"error_ratio": reading.error_ratio, "holds": reading.holds}
                    for reading in readings
                ],
                "not_available": not_available(readings),
            }
        )
    else:
        _print(readings)
    return 0 if all(reading.holds for reading in readings) else 1


def calibrate() -> list[Reading]:
    """Let each probe read a known amount, each in a process of its own: some seconds, most of them torch's import."""
    block = CallRunner(timeout_s=_TIMEOUT_S, memory_passes=("heap", "pinned"), memory_timeline=True).measure(
        "block", touch_block, [_KNOWN_BYTES, _HOLD_S], {}
    )
    tensor = CallRunner(timeout_s=_TIMEOUT_S, memory_passes=("live",)).measure(
        "tensor", fill_tensor, [_KNOWN_BYTES], {}
    )
    available = {
        "pinned_peak_rss_bytes": platform.libc_ver()[0] == "glibc",
        "memray_peak_bytes": importlib.util.find_spec("memray") is not None,
    }
    sources = _SOURCES | {"peak_rss_bytes": block.peak_rss_source or MISSING}
    return [
        Reading(
            probe=probe.figure,
            source=sources[probe.figure],
            read_bytes=probe.read_bytes(tensor if probe.figure == "live_peak_bytes" else block),
            allowed_error_ratio=probe.calibration_limit,
            available=available.get(probe.figure, True),
        )
        for probe in PROBES
    ]


def not_available(readings: Sequence[Reading]) -> list[str]:
    """The figures that results taken here will not have."""
    missing = [reading.probe for reading in readings if reading.read_bytes is None]
    usage = Usage.now()
    missing += [name for name in ("major_faults", "swapped_bytes") if getattr(usage, name) is None]
    if available_devices() == ["cpu"]:
        missing += ["device_peak_allocated_bytes", "device_peak_reserved_bytes"]
    return missing


def _print(readings: Sequence[Reading]) -> None:
    machine = machine_info()
    limit_bytes = container_limit_bytes()
    devices = [
        f"{name} (untested on hardware)" if name in UNTESTED_ON_HARDWARE else name for name in available_devices()
    ]
    for name, text in (
        ("machine", f"{machine['processor']}, {machine['logical_cores']} logical cores, {machine['system']}"),
        ("memory", format_bytes(machine["memory_bytes"])),
        ("container", "no limit" if limit_bytes is None else format_bytes(limit_bytes)),
        ("devices", ", ".join(devices)),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("n/a here", ", ".join(not_available(readings)) or "nothing"),
    ):
        print(f"{name:11}{text}")
    print(f"\nA known {format_bytes(_KNOWN_BYTES)} as each probe reads it:\n")
    rows = [
        [
            reading.probe,
            reading.source,
            MISSING if reading.read_bytes is None else f"{reading.read_bytes} bytes",
            MISSING if reading.error_ratio is None else f"{reading.error_ratio:+.2%}",
            f"{reading.allowed_error_ratio:.1%}",
            MISSING if reading.read_bytes is None else "holds" if reading.holds else "DOES NOT HOLD",
        ]
        for reading in readings
    ]
    print(markdown(["probe", "source", "read", "error", "allowed", ""], rows))
