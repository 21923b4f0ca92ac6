"""A folder that each process of a measurement finds as it was before the first one."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from splade_bench.errors import DataError, error_line


class FreshFolder:
    """Inside the block, :meth:`renew` gives a folder the files that it had at first.

    Otherwise a function that does its work once, and then finds the result, would be measured without the work. After
    the block the folder has what the first call left there.

    The folder itself stays, because it may be the working folder of the processes.

    Args:
        path: the folder; None for none.

    Raises:
        DataError: its files cannot be copied.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            self._before, self._after = (path.with_name(f"{path.name}.{when}") for when in ("before", "after"))

    def __enter__(self) -> Self:
        if self._path is not None:
            _copy(self._path, self._before)
        return self

    def renew(self) -> None:
        """Let the folder have what it had at the beginning of the block."""
        if self._path is None:
            return
        if not self._after.exists():  # what the first call left there is the test's
            _copy(self._path, self._after)
        _replace(self._path, self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._path is None:
            return
        if self._after.exists():
            _replace(self._path, self._after)
            shutil.rmtree(self._after)
        shutil.rmtree(self._before)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(target, ignore_errors=True)
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error_line(error)
        raise DataError(
            f"tmp_path: its files cannot be copied for the memory passes: {reason}; give --memory-passes none, or keep "
            "such files elsewhere"
        ) from error


def _replace(path: Path, source: Path) -> None:
    """Give ``path`` the files of ``source`` in place of its own."""
    path.mkdir(exist_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    _copy(source, path)
