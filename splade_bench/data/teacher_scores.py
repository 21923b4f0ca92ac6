"""The scores that a teacher gave to the documents of a record, from the columns that may hold them.

``counts`` are the numbers of positives and negatives. Every ValueError is one line that says what to change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Its square is a number of float32, in which losses are computed.
_LARGEST_SCORE = 1e18
_JSON_TYPES = {str: "str", bool: "bool", int: "int", float: "float", list: "array", dict: "object", type(None): "null"}


def scores_of_columns(names: Sequence[str], record: Mapping[str, Any], counts: tuple[int, int]) -> tuple[float, ...]:
    """Those of one column for all documents, or of one column for the positives and one for the negatives."""
    wanted = counts if len(names) == 2 else (sum(counts),)
    found: list[float] = []
    for name, count in zip(names, wanted, strict=True):
        numbers = _numbers(name, [] if record.get(name) is None else record[name])
        if not isinstance(numbers, list) or len(numbers) != count:
            has = f"has {len(numbers)} scores" if isinstance(numbers, list) else "is one number"
            raise ValueError(f"{name} {has}; give {count}, one for each document, or none at all")
        found += numbers
    return tuple(found)


def scores_of_label(name: str, value: Any, counts: tuple[int, int]) -> tuple[float, ...]:
    """Scores as they are. A margin m becomes the scores 0 and -m, whose difference it is."""
    positives, negatives = counts
    numbers = _numbers(name, value)
    if not isinstance(numbers, list):
        if counts == (1, 0):
            if numbers == 0:
                raise ValueError(f"{name} is 0: these texts do not belong together; leave such pairs out")
            return (numbers,)
        if counts != (1, 1):
            documents = positives + negatives
            raise ValueError(f"{name} is one number; give a list of {documents} scores, one for each document")
        numbers = [numbers]
    if len(numbers) == positives + negatives:
        return tuple(numbers)
    if positives == 1 and len(numbers) == negatives:
        return 0.0, *(0.0 - margin for margin in numbers)
    margins = f", or {negatives} margins, one for each negative" if positives == 1 and negatives else ""
    raise ValueError(f"{name} has {len(numbers)} scores; give {positives + negatives}, one for each document{margins}")


def _numbers(name: str, value: Any) -> float | list[float]:
    """A number or a list of them, as floats; numbers in tables may be text."""
    if isinstance(value, list):
        return [_number(f"{name}[{number}]", item) for number, item in enumerate(value)]
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        number = None
    except OverflowError:
        number = math.inf
    if number is None:
        raise ValueError(f"{name}: Expected a number, got {json_type(value)}")
    if not math.isfinite(number):
        raise ValueError(f"{name} is not finite; write a number")
    if abs(number) > _LARGEST_SCORE:
        raise ValueError(f"{name} is {number:g}, which is too large to compute with; write a number below 1e18")
    return number


def json_type(value: Any) -> str:
    """What JSON calls the type of a value, for a message."""
    return _JSON_TYPES.get(type(value), type(value).__name__)
