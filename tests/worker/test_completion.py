"""A call is measured to its end, also if it only makes an object that would do the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from splade_bench.worker.completion import run_to_end

done: list[str] = []


async def coroutine() -> str:
    await asyncio.sleep(0)
    done.append("coroutine")
    return "value"


def generator() -> Iterator[int]:
    yield 1
    done.append("generator")


async def async_generator() -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(0)
    done.append("async generator")


def mapped() -> Iterator[None]:
    return map(done.append, ["map"])


def plain() -> str:
    done.append("plain")
    return "value"


@pytest.mark.parametrize(
    ("call", "value", "trace"),
    [
        (coroutine, "value", "coroutine"),
        (generator, None, "generator"),
        (async_generator, None, "async generator"),
        (mapped, None, "map"),
        (plain, "value", "plain"),
    ],
)
def test_the_work_is_done_and_the_value_is_returned(call: Callable[[], object], value: object, trace: str) -> None:
    done.clear()

    assert run_to_end(call) == value
    assert done == [trace]


def test_an_error_in_the_work_is_the_calls_error() -> None:
    async def failing() -> None:
        raise ValueError("in the work")

    with pytest.raises(ValueError, match="in the work"):
        run_to_end(failing)


def test_an_iterator_of_another_kind_is_a_value_and_is_not_read() -> None:
    items = iter([1, 2])

    assert run_to_end(lambda: items) is items
    assert next(items) == 1
