"""How fast this machine's device does each kind of work: measured once, in a second or two."""

from __future__ import annotations

import math
import mmap
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.device.devices import synchronize
from splade_bench.planner.work import Kind, Product, Traffic, Work, operators
from splade_bench.training.moments import moments_folder

_FILE_BYTES = 2**23  # a window of both moments
# Each task is timed for this long and at least twice. The fastest time counts: a disturbance only makes a task slower.
_TASK_S = 0.01
_MAX_ROUNDS = 40
# A product of square matrices of this size takes a millisecond or two.
_REFERENCE_SIZE = 512
_FRESH_ROUNDS = 5
# Tensors are used in turn, and all together have this size, so that none is in a cache when its turn comes again.
_COLD_BYTES = 2**26
_MAX_COPIES = 64
_GEMM_SIZE = 4096
_GEMM_ROUNDS = 3


class Rates:
    """Seconds of work on this device. Each task is timed when its time is first needed, and then remembered.

    Args:
        device: where the work is to run.
        budget_s: time for timing products. When it is spent, a product runs as fast as the timed one nearest in size.
        folder: folder of the optimizer states on disk.
    """

    def __init__(self, device: torch.device, *, budget_s: float = 3.0, folder: str | None = None) -> None:
        self._device = device
        self._operator_s = 0.0
        self._left_s = budget_s
        self._folder = folder
        self._product_s: dict[Product, float] = {}
        self._byte_s: dict[Traffic, float] = {}
        matrix, result = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE, device=device), torch.empty(0, device=device)
        self._reference: Callable[[], object] = lambda: torch.mm(matrix, matrix, out=result)
        self._reference_s = min(self._once(self._reference) for _ in range(_MAX_ROUNDS))

    def learn_operators(self, work: Work, duration_s: float) -> None:
        """Learn the price of an operator from a step with this ``work`` that took ``duration_s``.

        Modules, autograd and this package's own detours are Python, and every operator waits for them.
        """
        self._operator_s = max(0.0, duration_s - self.seconds(work)) / operators(work)

    def seconds(self, work: Work) -> float:
        """How long ``work`` takes. Its largest products are timed first."""
        products = [task for task in work if isinstance(task, Product)]
        total_s = 0.0
        for product in sorted(products, key=lambda product: -work[product] * product.flops):
            total_s += work[product] * self._seconds_of_product(product)
        for task, amount in work.items():
            if isinstance(task, Traffic):
                total_s += amount * self._seconds_of_byte(task)
        return total_s

    def _seconds_of_product(self, product: Product) -> float:
        if product not in self._product_s:
            if self._left_s <= 0 and self._product_s:
                nearest = min(self._product_s, key=lambda timed: abs(math.log(timed.flops / product.flops)))
                return self._product_s[nearest] * product.flops / nearest.flops
            self._product_s[product] = self._time(self._product_task(product))
        return self._product_s[product]

    def _seconds_of_byte(self, task: Traffic) -> float:
        if task.kind == "operator":
            return self._operator_s
        if task not in self._byte_s:
            size_bytes = 2**task.exponent
            if task.kind == "fault":
                self._byte_s[task] = self._time_faults(size_bytes) / size_bytes
            elif task.kind == "file":
                self._byte_s[task] = self._time_file() / _FILE_BYTES
            else:
                self._byte_s[task] = self._time(_task(task.kind, size_bytes, self._device)) / size_bytes
        return self._byte_s[task]

    def _product_task(self, product: Product) -> Callable[[], object]:
        """The product as in a step: activations in a cache, a weight or its gradient not in any cache."""
        ones = partial(torch.ones, dtype=product.dtype, device=self._device)
        if product.batch > 1:
            batch = min(product.batch, 64)  # each of a few takes as long as each of many
            left, right = ones(batch, product.rows, product.inner), ones(batch, product.inner, product.columns)
            results = torch.bmm(left, right)
            return lambda: [torch.bmm(left, right, out=results) for _ in range(-(-product.batch // batch))]
        left, right = ones(product.rows, product.inner), ones(product.inner, product.columns)
        result = torch.mm(left, right)
        copied = result if product.adds else right
        copies = cycle([copied.clone() for _ in range(max(1, min(_COLD_BYTES // copied.nbytes, _MAX_COPIES)))])
        if product.adds:
            return lambda: next(copies).addmm_(left, right)
        return lambda: torch.mm(left, next(copies), out=result)

    def _time_faults(self, size_bytes: int) -> float:
        """Seconds that writing to fresh pages takes beyond writing to them again."""
        if self._device.type != "cpu":
            return 0.0
        fresh_s, again_s = [], []
        for _ in range(_FRESH_ROUNDS):
            pages = torch.frombuffer(mmap.mmap(-1, size_bytes), dtype=torch.uint8)
            fresh_s.append(self._once(partial(pages.fill_, 1)))
            again_s.append(self._once(partial(pages.fill_, 1)))
        return max(0.0, min(fresh_s) - min(again_s))

    def _time_file(self) -> float:
        """Seconds that writing or reading a window of the moments takes: the mean of four of each."""
        window = torch.ones(_FILE_BYTES, dtype=torch.uint8).numpy().data
        with tempfile.TemporaryFile(dir=moments_folder(self._folder), buffering=0) as file:
            start_s = time.perf_counter()
            for _ in range(4):
                file.write(window)
            file.seek(0)
            while file.readinto(window):
                pass
            return (time.perf_counter() - start_s) / 8

    def _time(self, task: Callable[[], object]) -> float:
        """Seconds of a task, as a multiple of a reference product that is timed in turn with it.

        A shared or warm machine changes its speed from one second to the next. Without a reference, times taken earlier
        and later could not be compared.
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


def gemm_flops_per_s(size: int = _GEMM_SIZE) -> float:
    """Best rate of a product of square matrices in float32 on the CPU, its output warm and in place."""
    left, right, product = (torch.ones(size, size) for _ in range(3))
    times_s = []
    for _ in range(_GEMM_ROUNDS + 1):
        start_s = time.perf_counter()
        torch.mm(left, right, out=product)
        times_s.append(time.perf_counter() - start_s)
    return float(2 * size**3 / min(times_s[1:]))


def _task(kind: Kind, size_bytes: int, device: torch.device) -> Callable[[], object]:
    """An operator of this kind that moves ``size_bytes``."""
    if kind == "function":
        inputs = _cold(size_bytes, device)
        return lambda: F.gelu(next(inputs))
    if kind == "random":
        bits = torch.empty(size_bytes // 8, dtype=torch.int64, device=device)
        return lambda: bits.random_(-(2**63), None)
    if kind == "rows":
        table = torch.ones(2**12, 2**9, device=device)
        index = torch.arange(max(1, size_bytes // table[0].nbytes // 2), device=device) * 1237 % len(table)
        return lambda: table[index]
    if kind == "sort":
        keys = torch.arange(size_bytes // 8, device=device) * 1237 % 4093
        return lambda: torch.argsort(keys, stable=True)
    tensors = _cold(size_bytes // 2, device)
    return lambda: next(tensors).copy_(next(tensors))


def _cold(size_bytes: int, device: torch.device) -> Iterator[Tensor]:
    """Tensors of this size without end, none of them in a cache."""
    copies = max(2, min(_COLD_BYTES // size_bytes, _MAX_COPIES))
    return cycle([torch.rand(max(1, size_bytes // 4), device=device) for _ in range(copies)])
