"""What a figure was taken on: machine, versions, commit. No host or user names."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import splade_bench

PACKAGE_FOLDER = Path(splade_bench.__file__).parent
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ALLOCATOR_SETTINGS = (
    *("LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE", "PYTORCH_ALLOC_CONF"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_MPS_LOW_WATERMARK_RATIO"),
)
_VERSIONS_OF = ("torch", "transformers", "tokenizers", "psutil", "memray", "pytest", "pytest-benchmark")


def machine_info() -> dict[str, Any]:
    """Processor, cores, memory and system of this machine, and what decides how its memory is given out."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "allocator": _allocator(),
        "huge_pages": _huge_pages(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that move a figure; those not installed are left out."""
    found = {"python": platform.python_version(), "splade_bench": splade_bench.__version__}
    for name in _VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_tree() -> str:
    """Hash of the package's Python files: the same for the same code, whatever else was committed."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE_FOLDER.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE_FOLDER).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def commit() -> str | None:
    """The commit of the checkout this package runs from, ``-dirty`` with changes; None when installed elsewhere."""
    if not (PACKAGE_FOLDER.parent / ".git").exists():
        return None
    try:
        revision = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}-dirty" if changed else revision


def utc_now() -> str:
    """The moment, as results files write it: to the microsecond, so that no two runs share one."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def taken_on() -> dict[str, Any]:
    """The fields of a result that say what its figures were taken on."""
    return {"machine": machine_info(), "versions": versions(), "commit": commit(), "source_tree": source_tree()}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE_FOLDER.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _allocator() -> str:
    """The C library, and the settings of this process that change how it or torch takes memory."""
    settings = [
        # Of a library that is loaded first only the name: its folder may be somebody's home.
        f"{name}={Path(value).name if 'PRELOAD' in name or 'INSERT' in name else value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_") or name in _ALLOCATOR_SETTINGS
    ]
    return " ".join([*filter(None, platform.libc_ver()), *settings]) or platform.system()


def _huge_pages() -> str | None:
    """Which mappings get transparent huge pages; None where there is no such thing."""
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
