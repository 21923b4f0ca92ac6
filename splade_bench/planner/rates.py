"""How fast the device at hand does each kind of work: measured once, in a second or two."""

from __future__ import annotations

import math
import mmap
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.device.devices import synchronize
from splade_bench.planner.work import Kind, Passes, Product, Work, calls
from splade_bench.training.moments import moments_folder

_FILE_BYTES = 2**23  # a window of both moments
# Each task is timed until so much time has gone, at least twice, and the fastest counts: others disturb, none helps.
_TASK_S = 0.01
_MAX_ROUNDS = 40
# A product of square matrices of this size takes a millisecond or two.
_REFERENCE_SIZE = 512
_FRESH_ROUNDS = 5
# What is used in turn, so that none of it is in a cache when it comes round again.
_COLD_BYTES = 2**26
_MAX_COPIES = 64


class Rates:
    """Seconds of work on this device. Each task is timed when it is first asked for, and then known.

    Args:
        device: where the work is to run.
        budget_s: time for timing products; one that comes when it is spent is taken to run as fast as that known one
            which is nearest in size.
        folder: where optimizer states on disk would lie.
    """

    def __init__(self, device: torch.device, *, budget_s: float = 3.0, folder: str | None = None) -> None:
        self._device = device
        self._call_s = 0.0
        self._left_s = budget_s
        self._folder = folder
        self._product_s: dict[Product, float] = {}
        self._byte_s: dict[Passes, float] = {}
        size = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE, device=device), torch.empty(0, device=device)
        self._reference: Callable[[], object] = lambda: torch.mm(size[0], size[0], out=size[1])
        self._reference_s = min(self._once(self._reference) for _ in range(_MAX_ROUNDS))

    def learn_calls(self, work: Work, duration_s: float) -> None:
        """Take what a step with this ``work`` lasted beyond it for the price of its calls.

        Modules, autograd and this package's own detours are Python, and every operator waits for them.
        """
        self._call_s = max(0.0, duration_s - self.seconds(work)) / calls(work)

    def seconds(self, work: Work) -> float:
        """How long ``work`` takes. Times what it is made of, the weightiest first."""
        products = [task for task in work if isinstance(task, Product)]
        total_s = 0.0
        for product in sorted(products, key=lambda product: -work[product] * product.flops):
            total_s += work[product] * self._of_product(product)
        for task, amount in work.items():
            if isinstance(task, Passes):
                total_s += amount * self._of_byte(task)
        return total_s

    def _of_product(self, product: Product) -> float:
        if product not in self._product_s:
            if self._left_s <= 0 and self._product_s:
                nearest = min(self._product_s, key=lambda one: abs(math.log(one.flops / product.flops)))
                return self._product_s[nearest] * product.flops / nearest.flops
            self._product_s[product] = self._time(self._a_product(product))
        return self._product_s[product]

    def _of_byte(self, task: Passes) -> float:
        if task.kind == "call":
            return self._call_s
        if task not in self._byte_s:
            if task.kind == "fault":
                self._byte_s[task] = self._of_faulted_byte(2**task.exponent)
            elif task.kind == "file":
                self._byte_s[task] = self._of_file_byte()
            else:
                size_bytes = 2**task.exponent
                self._byte_s[task] = self._time(_TIMED[task.kind](size_bytes, self._device)) / size_bytes
        return self._byte_s[task]

    def _a_product(self, product: Product) -> Callable[[], object]:
        """The product as a step meets it: activations warm, a weight or its gradient not in any cache."""
        if product.batch > 1:
            # Not all of many: a few are as fast each.
            batch = min(product.batch, 64)
            left = self._ones(product, batch, product.rows, product.inner)
            right = self._ones(product, batch, product.inner, product.columns)
            results = torch.bmm(left, right)
            return lambda: [torch.bmm(left, right, out=results) for _ in range(-(-product.batch // batch))]
        left = self._ones(product, product.rows, product.inner)
        right = self._ones(product, product.inner, product.columns)
        result = torch.mm(left, right)
        cold = cycle(self._copies(result if product.adds else right))
        if product.adds:
            return lambda: next(cold).addmm_(left, right)
        return lambda: torch.mm(left, next(cold), out=result)

    def _ones(self, product: Product, *sizes: int) -> Tensor:
        return torch.ones(sizes, dtype=product.dtype, device=self._device)

    def _copies(self, tensor: Tensor) -> Sequence[Tensor]:
        return [tensor.clone() for _ in range(max(1, min(_COLD_BYTES // tensor.nbytes, _MAX_COPIES)))]

    def _of_faulted_byte(self, size_bytes: int) -> float:
        """Fresh pages against pages that are there."""
        if self._device.type != "cpu":
            return 0.0
        fresh_s, again_s = [], []
        for _ in range(_FRESH_ROUNDS):
            pages = torch.frombuffer(mmap.mmap(-1, size_bytes), dtype=torch.uint8)
            fresh_s.append(self._once(partial(pages.fill_, 1)))
            again_s.append(self._once(partial(pages.fill_, 1)))
        return max(0.0, min(fresh_s) - min(again_s)) / size_bytes

    def _of_file_byte(self) -> float:
        buffer = torch.ones(_FILE_BYTES, dtype=torch.uint8).numpy().data
        with tempfile.TemporaryFile(dir=moments_folder(self._folder), buffering=0) as file:
            start_s = time.perf_counter()
            for _ in range(4):
                file.write(buffer)
            file.seek(0)
            while file.readinto(buffer):
                pass
            return (time.perf_counter() - start_s) / (8 * len(buffer))

    def _time(self, task: Callable[[], object]) -> float:
        """Seconds of a task, as multiples of a product that is timed in turn with it.

        A machine that is shared, or gets warm, is not equally fast from one second to the next; so what is timed later
        would not be comparable with what was timed before.
        """
        start_s = time.perf_counter()
        times_s: list[float] = []
        references_s: list[float] = []
        while len(times_s) < 2 or (len(times_s) < _MAX_ROUNDS and sum(times_s) < _TASK_S):
            references_s.append(self._once(self._reference))
            times_s.append(self._once(task))
        self._left_s -= time.perf_counter() - start_s
        return min(times_s) * self._reference_s / min(references_s)

    def _once(self, task: Callable[[], object]) -> float:
        start_s = time.perf_counter()
        task()
        synchronize(self._device)
        return time.perf_counter() - start_s


def _cold(size_bytes: int, device: torch.device) -> Iterator[Tensor]:
    """Numbers of this size, as often as they are asked for, none of them in a cache."""
    copies = max(2, min(_COLD_BYTES // size_bytes, _MAX_COPIES))
    return cycle([torch.rand(max(1, size_bytes // 4), device=device) for _ in range(copies)])


def _pass(size_bytes: int, device: torch.device) -> Callable[[], object]:
    numbers = _cold(size_bytes // 2, device)
    return lambda: next(numbers).copy_(next(numbers))


def _function(size_bytes: int, device: torch.device) -> Callable[[], object]:
    numbers = _cold(size_bytes, device)
    return lambda: F.gelu(next(numbers))


def _random(size_bytes: int, device: torch.device) -> Callable[[], object]:
    bits = torch.empty(size_bytes // 8, dtype=torch.int64, device=device)
    return lambda: bits.random_(-(2**63), None)


def _rows(size_bytes: int, device: torch.device) -> Callable[[], object]:
    table = torch.ones(2**12, 2**9, device=device)
    index = torch.arange(max(1, size_bytes // table[0].nbytes // 2), device=device) * 1237 % len(table)
    return lambda: table[index]


def _sort(size_bytes: int, device: torch.device) -> Callable[[], object]:
    numbers = torch.arange(size_bytes // 8, device=device) * 1237 % 4093
    return lambda: torch.argsort(numbers, stable=True)


_TIMED: Mapping[Kind, Callable[[int, torch.device], Callable[[], object]]] = {
    "pass": _pass,
    "function": _function,
    "random": _random,
    "rows": _rows,
    "sort": _sort,
}
