"""A plan of one of several processes: the live bytes of one that trains."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer

from splade_bench.batching.batches import Targets, TripleBatch, pad
from splade_bench.cli import main
from splade_bench.config import TrainConfig
from splade_bench.device.planned import PlannedAllocator, PlannedDevice
from splade_bench.device.storages import LivePeak, LiveStorages
from splade_bench.distributed.simulated import SimulatedGroup
from splade_bench.memory_modes import memory_mode
from splade_bench.model.presets import build_preset
from splade_bench.planner.rehearsal import Lengths, rehearse
from splade_bench.training.together import SeveralProcesses
from splade_bench.training.trainer import Trainer

LENGTHS = Lengths(groups=((5, 4, 6, 5, 4, 6, 3, 3), (16, 12, 9, 8, 14, 11, 9, 7), (13, 9, 7, 6, 5, 12, 8, 10)))


def trained(tokenizer: Tokenizer, config: TrainConfig, lengths: Lengths) -> tuple[LivePeak, float]:
    """The same as a rehearsal, with values: a step on a few tokens, and one with the planned lengths."""

    class Batches:
        batches_per_epoch = 2

        def record_name(self, row: int) -> str:
            return str(row)

        def batches(self, epoch: int, *, start: int = 0):  # type: ignore[no-untyped-def]
            width = config.max_length if config.memory.padding == "max_length" else None
            for groups in ([(8,)] * 3, lengths.groups):
                queries, *documents = (
                    pad([[*range(5, 5 + length)] for length in group], pad_token_id=0, width=width) for group in groups
                )
                teacher = torch.ones(lengths.processes * len(groups[0]), len(documents))
                yield TripleBatch(queries, tuple(documents), targets=Targets(teacher_scores=teacher))

    encoder = build_preset("toy", tokenizer, seed=0)
    live = LiveStorages(vocab_size=encoder.vocab_size)
    processes = SeveralProcesses(SimulatedGroup(0, lengths.processes))
    trainer = Trainer(encoder, Batches(), replace(config, max_steps=2), observers=[live], processes=processes)
    live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
    with live:
        trainer.train()
    return live.peak(), trainer.state.active_share


@pytest.mark.parametrize("mode", ["memory-efficient", "standard"])
@pytest.mark.parametrize("loss", ["contrastive", "kl"])
def test_live_bytes_of_one_of_four_processes(tokenizer: Tokenizer, mode: str, loss: str) -> None:
    config = TrainConfig(max_length=16, batch_size=8, loss=loss, memory=memory_mode(mode))
    lengths = LENGTHS.share_of(4)
    true, active_share = trained(tokenizer, config, lengths)

    planned = rehearse(
        lambda: build_preset("toy", tokenizer, seed=0),
        config,
        lengths,
        device=PlannedDevice("cpu", PlannedAllocator()),
        active_share=active_share,
    )

    assert planned.peak_bytes == pytest.approx(true.peak_bytes, rel=0.01, abs=8192)


def test_a_share_has_the_longest_texts() -> None:
    share = LENGTHS.share_of(3)

    assert (share.processes, share.groups) == (3, ((6, 6, 5), (16, 14, 12), (13, 12, 10)))


def test_a_process_takes_less_than_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    def peak_bytes(processes: int) -> int:
        shape = ["--model-name", "toy", "--batch-size", "64", "--max-length", "64", "--memory-mode", "standard"]
        assert main(["plan", *shape, "--processes", str(processes), "--json"]) == 0
        return int(json.loads(capsys.readouterr().out)["live_peak_bytes"])

    assert peak_bytes(4) < 0.5 * peak_bytes(1)
