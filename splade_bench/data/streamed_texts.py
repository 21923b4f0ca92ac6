"""Texts by their ids that stay in a file: that which they come from, or a temporary one."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any


class StreamedTexts(Mapping[str, str]):
    """Id -> text, in the order of a file, which is read again each time: only the number of texts is in memory.

    Args:
        read: reads all ids and texts from the beginning, one by one.
        count: how many there are.
    """

    def __init__(self, read: Callable[[], Iterator[tuple[str, str]]], count: int) -> None:
        self._read = read
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (text_id for text_id, _ in self._read())

    def __getitem__(self, text_id: str) -> str:
        """It reads the file up to the text."""
        for found, text in self._read():
            if found == text_id:
                return text
        raise KeyError(text_id)

    # A view that Mapping makes would read the file once for each text.
    def items(self) -> Any:
        return _Once(self._read)

    def values(self) -> Any:
        return _Once(lambda: (text for _, text in self._read()))


class SpooledTexts:
    """Different texts in a temporary file without a name, which goes with this object. In memory is a hash of each.

    Ids are d0, d1 and so on, in the order in which the texts come. Errors of the disk are :class:`OSError`.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ids: dict[bytes, str] = {}

    def id_of(self, text: str) -> str:
        """The id of a text, which is added if it is new."""
        key = blake2b(text.encode(), digest_size=16).digest()
        if key not in self._ids:
            self._ids[key] = f"d{len(self._ids)}"
            self._file.write(json.dumps(text).encode() + b"\n")
        return self._ids[key]

    def texts(self) -> StreamedTexts:
        """All texts by their ids, after the last one was added."""
        self._file.flush()
        return StreamedTexts(self._read, len(self._ids))

    def _read(self) -> Iterator[tuple[str, str]]:
        offset = 0  # several readers may take turns
        for number in range(len(self._ids)):
            self._file.seek(offset)
            line = self._file.readline()
            offset += len(line)
            yield f"d{number}", json.loads(line)


class _Once(Iterable[Any]):
    """What a function yields, from the beginning each time."""

    def __init__(self, read: Callable[[], Iterator[Any]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Any]:
        return self._read()
