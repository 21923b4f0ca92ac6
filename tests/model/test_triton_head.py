"""The triton head without a GPU: right in Triton's interpreter, compiled for NVIDIA's cards, planned, and refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splade_bench.cli import main
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model import SpladeEncoder, triton_head
from splade_bench.model.head import pool
from splade_bench.model.triton_head import fused_max, gradients_by_segments, require_triton

H100 = (9, 0)
ROOT = Path(__file__).parents[2]
# CI has it: tox installs it for the tests, on Linux.
NEEDS_TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="needs the extra [triton]")
KERNELS = {"maxima", "weight_gradient", "chunk_sums", "hidden_gradient"}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
# Most shared memory of a program, in KiB, by compute capability.
SHARED_KIB = {80: 163, 90: 227}


@NEEDS_TRITON
@pytest.mark.slow
def test_it_is_right_in_tritons_interpreter() -> None:
    if tuple(map(int, version("triton").split(".")[:2])) < (3, 7):
        pytest.skip("before Triton 3.7 the interpreter does not know numpy 2.4")
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-p", "no:cacheprovider"]
    finished = subprocess.run(
        [*command, str(ROOT / "tests" / "support" / "interpreted_head.py")],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
    assert "skipped" not in finished.stdout


@dataclass
class Launch:
    """A kernel with its arguments, as a run would launch it."""

    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What is launched, which does nothing."""
    seen: list[Launch] = []

    def record(kernel: str, grid: object, *arguments: Any, like: object = None, **options: Any) -> None:
        seen.append(Launch(kernel, arguments, options))

    monkeypatch.setattr(triton_head, "_launch", record)
    return seen


def launch_all(dtype: torch.dtype, *, length: int = 128, hidden_size: int = 768, bias: bool = True) -> None:
    """Forward and backward pass of BERT-base's sizes, but for the vocabulary."""
    hidden = torch.zeros(2, length, hidden_size, dtype=dtype)
    weight = torch.zeros(1000, hidden_size, dtype=dtype)
    mask = torch.ones(2, length, dtype=torch.int64)
    fused_max(hidden, weight, weight[:, 0].clone() if bias else None, mask, compute_dtype=dtype)
    winners = torch.zeros(2, 1000, dtype=torch.int32)
    gradients_by_segments(torch.ones(2, 1000), hidden, weight, winners, torch.zeros_like(weight))


def compile_launch(launch: Launch, capability: int) -> Any:
    """As Triton does when a kernel is launched: 1 and None become constants, multiples of 16 are known as such."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from splade_bench.model import triton_kernels

    kernel = getattr(triton_kernels, launch.kernel)
    constants = {name: value for name, value in launch.options.items() if name in kernel.arg_names}
    types, attributes = {}, {}
    for parameter, value in zip(kernel.params, launch.arguments, strict=False):
        if isinstance(value, Tensor):
            types[parameter.name] = POINTERS[value.dtype]
        elif value is None or (value == 1 and not parameter.do_not_specialize):
            constants[parameter.name] = value
        else:
            types[parameter.name] = "i32"
        is_multiple = isinstance(value, Tensor) or (not parameter.do_not_specialize and value and value % 16 == 0)
        if is_multiple:
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {name: value for name, value in launch.options.items() if name.startswith("num_")}
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={**options, "enable_fp_fusion": True})


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Launch, int], Any]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return compile_launch


@NEEDS_TRITON
@pytest.mark.parametrize("capability", SHARED_KIB)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_kernel_compiles_for_cards_of_two_generations(
    dtype: torch.dtype, capability: int, launches: list[Launch], compiler: Callable[[Launch, int], Any]
) -> None:
    launch_all(dtype)

    assert {launch.kernel for launch in launches} == KERNELS
    for launch in launches:
        made = compiler(launch, capability)
        assert len(made.asm["cubin"]) > 0
        assert made.metadata.shared <= SHARED_KIB[capability] * 1024
        assert not re.search(r"(?<![a-z])(atom|red)\.", made.asm["ptx"]), "sums have a fixed order"
        if launch.kernel == "maxima":
            tensor_cores = {80: "mma.sync", 90: "wgmma.mma_async"}[capability]
            assert (tensor_cores in made.asm["ptx"]) == (dtype != torch.float32)


@NEEDS_TRITON
@pytest.mark.parametrize("capability", SHARED_KIB)
def test_the_smallest_sizes_and_tf32_compile_too(
    capability: int,
    launches: list[Launch],
    compiler: Callable[[Launch, int], Any],
) -> None:
    launch_all(torch.bfloat16, length=1, hidden_size=4, bias=False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    launch_all(torch.float32)
    torch.set_float32_matmul_precision(before)
    maxima = [launch for launch in launches if launch.kernel == "maxima"]

    assert [launch.options["precision"] for launch in maxima] == ["ieee", "tf32"]
    smallest, tf32 = (compiler(launch, capability) for launch in maxima)
    assert len(smallest.asm["cubin"]) > 0
    assert "tf32" in tf32.asm["ptx"]


def test_tiles_without_tokens_are_skipped(launches: list[Launch]) -> None:
    mask = torch.zeros(3, 300, dtype=torch.int64)
    mask[0, 290:] = 1
    mask[1, ::150] = 1

    fused_max(torch.zeros(3, 300, 16).half(), torch.zeros(9, 16).half(), None, mask, compute_dtype=torch.float16)

    (launch,) = launches
    used, used_tiles = launch.arguments[3:5]
    assert used.sum(1).tolist() == [10, 2, 1]
    assert used_tiles.tolist() == [[0, 0, 1], [1, 1, 0], [1, 0, 0]]


def test_entries_without_a_gradient_are_no_terms(launches: list[Launch]) -> None:
    grad_logits = torch.zeros(2, 700)
    grad_logits[1, 300:600] = 1.0
    winners = torch.full((2, 700), 3, dtype=torch.int32)

    gradients_by_segments(grad_logits, torch.zeros(2, 5, 16), torch.zeros(700, 16), winners, None)

    chunk_sums, hidden_gradient = launches
    assert hidden_gradient.arguments[3].tolist() == [0] * 9 + [300] * 2  # token 3 of the second text has all
    assert hidden_gradient.arguments[4].tolist() == [0] * 8 + [2] * 2
    assert chunk_sums.arguments[5].tolist() == [8, 8] + [10] * 8
    assert chunk_sums.arguments[6].shape == (10, 16)


def test_only_the_module_of_the_kernels_imports_triton() -> None:
    importing = [
        path.name
        for path in (ROOT / "splade_bench").rglob("*.py")
        if any(line.split()[:2] in (["import", "triton"], ["from", "triton"]) for line in path.read_text().splitlines())
    ]

    assert importing == ["triton_kernels.py"]


def test_without_cuda_it_is_refused_in_one_line(encoder: SpladeEncoder) -> None:
    with pytest.raises(ConfigError, match=r"^--head triton needs CUDA; use --head streaming$"):
        encoder.configure(MemoryConfig(head="triton"))


def test_without_the_package_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)

    with pytest.raises(ConfigError, match=r"^--head triton: the package triton is missing; .*splade-bench\[triton\]"):
        require_triton(torch.device("cuda"))


def test_a_type_that_the_kernels_do_not_know_is_refused_in_one_line() -> None:
    inputs = torch.zeros(1, 2, 16).double(), torch.zeros(3, 16).double(), None, torch.ones(1, 2)

    with pytest.raises(ConfigError, match=r"^--head triton cannot compute in torch.float64; use --head streaming$"):
        fused_max(*inputs, compute_dtype=torch.float64)


def planned_on(capsys: pytest.CaptureFixture[str], device: str, head: str, code: int = 0) -> str:
    # The text is long enough for a tile of logits to be larger than the rest.
    sizes = ["--max-length", "128", "--batch-size", "64", "--no-gradient-caching"]
    command = ["plan", "--model-name", "toy", "--device", device, "--head", head, *sizes, "--json"]
    assert main(command) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_a_plan_needs_neither_the_card_nor_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)

    heads = ("triton", "streaming", "tiled")
    triton, streaming, tiled = (json.loads(planned_on(capsys, "cuda", head)) for head in heads)

    assert triton["config"]["memory"]["head"] == "triton"
    assert 0 < triton["live_peak_bytes"] == streaming["live_peak_bytes"] < tiled["live_peak_bytes"]
    assert triton["by_category"].get("logits", 0) == 0


def test_a_plan_for_another_device_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("cpu", "mps"):
        message = planned_on(capsys, device, "triton", code=2)
        assert message == "splade-bench plan: --head triton needs CUDA; use --head streaming\n"


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "compiler", "triton", "expected"),
    [
        ("cuda", torch.bfloat16, H100, "cc", True, True),
        ("cuda", torch.float32, (8, 0), "cc", True, True),
        ("cpu", torch.bfloat16, H100, "cc", True, False),
        ("cuda", torch.float64, H100, "cc", True, False),
        ("cuda", torch.float16, (7, 5), "cc", True, False),
        ("cuda", torch.bfloat16, H100, None, True, False),
        ("cuda", torch.bfloat16, H100, "cc", False, False),
    ],
)
def test_the_streaming_head_uses_the_kernels_where_they_can_run(
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    compiler: str | None,
    triton: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("shutil.which", lambda name: compiler if name == "gcc" else None)
    monkeypatch.setattr(triton_head, "find_spec", lambda name: object() if triton else None)
    triton_head._can_compile.cache_clear()

    assert triton_head.suits(torch.device(device), dtype) is expected
    triton_head._can_compile.cache_clear()


@pytest.mark.parametrize(("head", "expected"), [("streaming", None), ("tiled", False), ("triton", True)])
def test_head_decides_for_the_encoder(
    head: Any, expected: bool | None, encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool | None] = []

    def remember(*inputs: Tensor, fused: bool | None, **options: Any) -> Any:
        seen.append(fused)
        return pool(*inputs)

    monkeypatch.setattr("splade_bench.model.encoder.require_triton", lambda device: None)
    monkeypatch.setattr("splade_bench.model.encoder.pool", remember)
    encoder.configure(MemoryConfig(head=head))

    encoder.pool(encoder.tokenize(["open the window"], max_length=8))

    assert seen == [expected]
