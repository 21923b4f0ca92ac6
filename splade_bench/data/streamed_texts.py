"""Texts by their ids that stay in their file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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


class _Once(Iterable[Any]):
    """What a function yields, from the beginning each time."""

    def __init__(self, read: Callable[[], Iterator[Any]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Any]:
        return self._read()
