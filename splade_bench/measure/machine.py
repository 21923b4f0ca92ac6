"""The machine, versions and commit that a figure was measured on. No host or user names."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import splade_bench
from splade_bench.measure.control_group import container_free_bytes
from splade_bench.measure.readings import or_none

PACKAGE_FOLDER = Path(splade_bench.__file__).parent
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ALLOCATOR_SETTINGS = (
    *("LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE", "PYTORCH_ALLOC_CONF"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_MPS_LOW_WATERMARK_RATIO"),
)
_VERSIONS_OF = ("torch", "transformers", "tokenizers", "psutil", "memray", "pytest", "pytest-benchmark")


def machine_info() -> dict[str, Any]:
    """Processor, cores, memory and system of this machine, and the settings that change how memory is allocated.

    What this machine does not report is None.
    """
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": or_none(_processor_name),
        "physical_cores": or_none(lambda: psutil.cpu_count(logical=False)),
        "logical_cores": or_none(psutil.cpu_count),
        "memory_bytes": or_none(total_memory_bytes),
        "allocator": or_none(_allocator),
        "huge_pages": or_none(_huge_pages),
        "boot": or_none(_boot),
    }


def total_memory_bytes() -> int:
    """Memory of this machine.

    Raises:
        OSError: it is not reported, as in a sandbox without /proc.
    """
    return int(psutil.virtual_memory().total)


def free_memory_bytes() -> int:
    """Memory that this process can take now: that of the machine, and that below the limit of its container."""
    free_bytes = int(psutil.virtual_memory().available)
    in_container_bytes = container_free_bytes()
    return free_bytes if in_container_bytes is None else min(free_bytes, in_container_bytes)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a figure."""
    found = {"python": platform.python_version(), "splade_bench": splade_bench.__version__}
    for name in _VERSIONS_OF:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def source_tree() -> str:
    """Source tree fingerprint: a hash of the package's Python files, independent of all other files."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE_FOLDER.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE_FOLDER).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def commit() -> str | None:
    """The commit of this package's checkout, with ``-dirty`` if it has changes; None if it has no checkout."""
    if not (PACKAGE_FOLDER.parent / ".git").exists():
        return None
    try:
        revision = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, not UTF-8, or somebody else's checkout
        return None
    return f"{revision}-dirty" if changed else revision


def utc_now() -> str:
    """Now, as results files write it: to the microsecond, so that no two runs share one."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def taken_on() -> dict[str, Any]:
    """The fields of a result that name the machine, versions and code it was measured on; None where that fails."""
    return {
        "machine": machine_info(),
        "versions": or_none(versions) or {},
        "commit": or_none(commit),
        "source_tree": or_none(source_tree),
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE_FOLDER.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _allocator() -> str:
    """The C library, and this process's settings that change how it or torch allocates memory."""
    settings = [
        # Only the name of a preloaded library: its folder may be somebody's home.
        f"{name}={Path(value).name if 'PRELOAD' in name or 'INSERT' in name else value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_") or name in _ALLOCATOR_SETTINGS
    ]
    return " ".join([*filter(None, platform.libc_ver()), *settings]) or platform.system()


def _boot() -> str:
    """A name of this start of the system: a hash of a random number, so that only one machine has it, until it stops.

    Raises:
        OSError: the system has no such number, as outside Linux.
    """
    return hashlib.sha256(_BOOT_ID.read_bytes()).hexdigest()[:12]


def _huge_pages() -> str | None:
    """Which mappings get transparent huge pages; None if the system has none."""
    try:
        text = _HUGE_PAGES.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or text.strip()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
