"""A training whose command line a launcher started several times: rank 0 leads it, and the others follow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from splade_bench.cli.arguments import given_flags
from splade_bench.cli.flags import TrainFlags
from splade_bench.cli.memory_settings import asks_for_a_fit
from splade_bench.cli.signals import StopSignals
from splade_bench.cli.sources import corpus_of, give_static_queries
from splade_bench.cli.starting import started_encoder
from splade_bench.config import TrainConfig
from splade_bench.data.records import Corpus
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.distributed.group import RankError
from splade_bench.distributed.launch import launch_of
from splade_bench.errors import ConfigError, SpladeBenchError, TrainingError, error_line
from splade_bench.measure.machine import source_tree, versions
from splade_bench.training.checkpoints import Checkpoint
from splade_bench.training.faults import out_of_memory
from splade_bench.training.run_state import resume_run
from splade_bench.training.together import OneProcess, SeveralProcesses
from splade_bench.training.trainer import Trainer

if TYPE_CHECKING:
    from splade_bench.cli.train import TrainCommand


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """What rank 0 decides for all before the training."""

    config: TrainConfig
    checkpoint: Path | None
    corpus_sha256: str


def refuse_processes_flag(arguments: Sequence[str]) -> None:
    """Refuse the flag of ``plan`` and of the benchmark in a command line of ``train``, which a launcher starts.

    Raises:
        ConfigError: it is there.
    """
    if "processes" in given_flags(arguments):
        raise ConfigError(
            "--processes: a launcher starts the processes of a training; remove it, and write "
            "torchrun --nproc-per-node N -m splade_bench train (docs/several-processes.md)"
        )


@contextmanager
def processes_of(command: TrainCommand, arguments: Sequence[str], device: torch.device) -> Iterator[OneProcess]:
    """The processes that a launcher started; without one, this process alone.

    Raises:
        ConfigError: a flag has no meaning for several processes, or the processes do not agree about flags or code.
    """
    launch = launch_of()
    if launch is None:
        yield OneProcess()
        return
    if command.auto_fit and asks_for_a_fit(arguments):
        raise ConfigError("--auto-fit, --budget and --allow-inexact choose settings for one process: remove them")
    if command.faults.on_oom == "halve":
        raise ConfigError("--on-oom halve works in one process only: remove it, or give --mini-batch-tokens")
    if launch.rank:  # rank 0 speaks for all
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("splade_bench").setLevel(logging.ERROR)
    from splade_bench.distributed.joining import LaunchedGroup  # one process needs none of torch.distributed

    try:
        with LaunchedGroup(launch, device.type, timeout_s=command.faults.process_timeout_s) as group:
            processes = SeveralProcesses(group)
            _require_same(processes, command, device)
            yield processes
    except Exception as error:
        if not launch.rank or isinstance(error, RankError):
            raise
        line = f"rank {launch.rank}: {error_line(error)}"
        if isinstance(error, SpladeBenchError):
            raise type(error)(line) from error
        if isinstance(error, (OSError, MemoryError, RuntimeError)):  # a full disk, a lost device
            raise TrainingError(line) from error
        error.args = (line,)  # an internal error, which is told with its class and place
        raise


def follow(command: TrainFlags, processes: SeveralProcesses, device: torch.device) -> int:
    """The part of all ranks but 0: train, and write nothing. The exit code.

    Raises:
        ConfigError: the data or the weights are not those of rank 0.
        TrainingError: no memory is left.
        RankError: another process failed.
    """
    begun: Begun = processes.group.gather_objects(None)[0]
    corpus = corpus_of(command)
    if corpus.sha256 != begun.corpus_sha256:
        raise ConfigError("the files of --train-file and --val-file are not those of rank 0: give all ranks the same")
    command = replace(command, config=begun.config)
    checkpoint = Checkpoint.at(begun.checkpoint) if begun.checkpoint else None
    encoder = started_encoder(command, corpus, checkpoint, device)
    if command.config.query_encoder == "static" and not checkpoint and encoder.static_queries is None:
        give_static_queries(encoder, corpus)
    encoder.tokenizer.model_max_length = command.config.max_length
    trainer = Trainer(encoder, corpus.triples, command.config, processes=processes)
    if checkpoint:
        checkpoint.verify()
        resume_run(trainer, checkpoint.path)
    processes.meet()
    with StopSignals() as signals:
        signals.on_first = trainer.request_stop
        try:
            with processes.on_rank_0(trainer.state):
                pass  # it evaluates, if a run that goes on has not yet
            trainer.train()
            with processes.on_rank_0(trainer.state):
                pass  # it saves
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(out_of_memory(trainer, error, "an optimizer step", can_halve=False)) from error
    return signals.exit_code


def lead(command: TrainFlags, processes: OneProcess, corpus: Corpus, checkpoint: Checkpoint | None) -> None:
    """Tell the others what rank 0 has decided; they wait for it."""
    if isinstance(processes, SeveralProcesses):
        path = checkpoint.path.resolve() if checkpoint else None
        begun = Begun(config=command.config, checkpoint=path, corpus_sha256=corpus.sha256)
        processes.group.gather_objects(begun)


def _require_same(processes: SeveralProcesses, command: TrainFlags, device: torch.device) -> None:
    """Refuse to train if a rank has other flags, code or libraries than rank 0."""
    own = {f"--{field.name}": str(getattr(command, field.name)) for field in fields(TrainFlags)}
    del own["--config"]
    settings = asdict(command.config)
    own |= {f"--{name}": str(value) for name, value in (settings | settings["memory"]).items() if name != "memory"}
    own |= {"the device": device.type, "the code of splade_bench": source_tree()[:16]}
    own |= {f"the version of {name}": version for name, version in versions().items()}
    everyone = processes.group.gather_objects(own)
    for rank, theirs in enumerate(everyone):
        changed = [
            f"{name.replace('_', '-') if name.startswith('--') else name} is {everyone[0].get(name)} on rank 0 and "
            f"{theirs.get(name)} on rank {rank}"
            for name in everyone[0].keys() | theirs.keys()
            if everyone[0].get(name) != theirs.get(name)
        ]
        if changed:
            raise ConfigError(f"{'; '.join(sorted(changed))}: start all ranks with the same command and code")
