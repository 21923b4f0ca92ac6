"""Runs a call to its end: what a coroutine or a generator would do is done, as its caller would have it done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable


def run_to_end(call: Callable[[], object]) -> object:
    """What ``call`` returns.

    If that is a coroutine, it is awaited in an event loop of its own, and its value is returned. If it is a generator,
    its items are made one after another and dropped; the value is None.
    """
    made = call()
    if isinstance(made, AsyncIterator):
        return asyncio.run(_drain(made))
    if inspect.isawaitable(made):
        return asyncio.run(_value_of(made))
    if inspect.isgenerator(made) or isinstance(made, (map, filter, zip)):
        for _ in made:
            pass
        return None
    return made


async def _value_of(awaitable: Awaitable[object]) -> object:
    return await awaitable


async def _drain(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass
