"""What a checkpoint keeps of a run beside its model, and how a run goes on from one.

Files of a checkpoint: those of the model (``model.safetensors``, ``config.json``, tokenizer), ``optimizer.safetensors``
with AdamW's moments, ``trainer_state.safetensors`` with random states and losses, and ``trainer_state.json`` with the
rest. On the CPU a run that goes on from them computes the same weights, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import torch
from torch import Tensor

from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import DataError, error_line
from splade_bench.json_records import json_text
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.loading import load_masked_lm
from splade_bench.model.rng import RngState
from splade_bench.model.weights import require_finite_weights
from splade_bench.training.moments import Bfloat16Moments, windows
from splade_bench.training.optimizer import (
    MOMENT_NAMES,
    WindowedAdamW,
    kept_moment,
    own_windows,
    restore_moment,
    restore_steps,
    steps_done,
)
from splade_bench.training.saved_run import (
    STATE_NAME,
    SavedRun,
    read_saved_run,
    require_same_run,
    rounding_conditions,
    warn_of_other_rounding,
)
from splade_bench.training.tensor_file import StreamedTensor, TensorReader, write_tensors
from splade_bench.training.trainer import Trainer

_TENSORS_NAME = "trainer_state.safetensors"
_OPTIMIZER_NAME = "optimizer.safetensors"
# The tokenizer of a large vocabulary, configurations, losses.
_SMALL_FILES_BYTES = 20 * 2**20


def save_run(trainer: Trainer, folder: Path, inputs: Mapping[str, str | None]) -> None:
    """Write all of a run at its last complete optimizer step into an empty folder.

    Memory: a window of a moment; what the model's own saving takes.

    Raises:
        OSError: it cannot be written.
        NotFiniteError: a weight or a moment is not finite.
    """
    require_finite_weights(trainer.encoder)
    trainer.encoder.save_pretrained(folder)
    write_tensors(folder / _OPTIMIZER_NAME, _moments(trainer), require_finite=True)
    write_tensors(folder / _TENSORS_NAME, _state_tensors(trainer))
    version, keys, gauss = random.getstate()
    numpy_kind, _, *numpy_rest = _numpy_state()
    saved = SavedRun(
        state=replace(trainer.state, stop_requested=False, stop_reason=None),
        config=trainer.config.to_dict(),
        inputs=dict(inputs),
        **rounding_conditions(trainer),
        loss_scale_factor=trainer.loss_scale.factor,
        loss_scale_steps=trainer.loss_scale.steps,
        optimizer_steps={name: steps_done(trainer.optimizer, parameter) for name, parameter in _updated(trainer)},
        observers={type(one).__name__: one.state_dict() for one in trainer.observers if hasattr(one, "state_dict")},
        python_random_state=[version, list(keys), gauss],
        numpy_random_state=[numpy_kind, *numpy_rest],
    )
    (folder / STATE_NAME).write_text(json_text(saved) + "\n", encoding="utf-8")


def resume_run(trainer: Trainer, folder: Path, inputs: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Make a new ``trainer`` go on where the run in ``folder`` was. Its observers get their states back.

    What ``inputs`` name, by flag, must be as in the saved run.

    Raises:
        ConfigError: a setting that matters, or the data, is not that of the saved run.
        DataError: the checkpoint cannot be read.
    """
    require_same_run(trainer, folder, inputs)
    try:
        _restore(trainer, folder, read_saved_run(folder))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise DataError(f"{folder}: the run in it cannot be restored: {error_line(error)}") from error


def model_bytes(encoder: SpladeEncoder) -> int:
    """About what a saved model takes on a disk."""
    return sum(parameter.nbytes for parameter in encoder.parameters()) + _SMALL_FILES_BYTES


def checkpoint_bytes(trainer: Trainer) -> int:
    """About what a checkpoint takes on a disk: the model and two moments of each parameter."""
    moment_bytes = 2 if trainer.config.memory.optimizer_states == "bfloat16" else 4
    trained = sum(parameter.numel() for parameter in trainer.encoder.parameters() if parameter.requires_grad)
    return model_bytes(trainer.encoder) + 2 * moment_bytes * trained


def load_weights(encoder: SpladeEncoder, folder: Path) -> None:
    """Give ``encoder`` the weights of the same model in ``folder``.

    Raises:
        ConfigError: the folder has no such model.
    """
    saved = SpladeEncoder(load_masked_lm(str(folder)), encoder.tokenizer)
    saved.load_static_queries(str(folder))
    encoder.load_state_dict(saved.state_dict())


def _restore(trainer: Trainer, folder: Path, saved: SavedRun) -> None:
    warn_of_other_rounding(saved, trainer)
    load_weights(trainer.encoder, folder)
    _restore_moments(trainer, folder, saved)
    with TensorReader(folder / _TENSORS_NAME) as tensors:
        _restore_random_states(trainer, saved, {name: tensors.read(name) for name in tensors.names})
        trainer.losses[:] = tensors.read("losses").tolist()
    trainer.loss_scale.factor, trainer.loss_scale.steps = saved.loss_scale_factor, saved.loss_scale_steps
    for name, value in asdict(saved.state).items():
        if name != "max_steps":
            setattr(trainer.state, name, value)
    trainer.limit_mini_batches(saved.state.mini_batch_tokens)
    for observer in trainer.observers:
        if type(observer).__name__ in saved.observers:
            observer.load_state_dict(saved.observers[type(observer).__name__])  # type: ignore[attr-defined]


def _updated(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """The parameters that the optimizer has updated, by name."""
    for name, parameter in trainer.encoder.named_parameters():
        if steps_done(trainer.optimizer, parameter):
            yield name, parameter


def _moments(trainer: Trainer) -> Iterator[StreamedTensor]:
    optimizer = trainer.optimizer
    for name, parameter in _updated(trainer):
        for row, moment_name in enumerate(MOMENT_NAMES):

            def pieces(parameter: Tensor = parameter, row: int = row) -> Iterator[Tensor]:
                for window in windows(parameter.numel()):
                    yield kept_moment(optimizer, parameter, row, window)

            dtype = kept_moment(optimizer, parameter, row, slice(0, 1)).dtype
            yield StreamedTensor(f"{moment_name}.{name}", dtype, (parameter.numel(),), pieces)


def _restore_moments(trainer: Trainer, folder: Path, saved: SavedRun) -> None:
    with TensorReader(folder / _OPTIMIZER_NAME) as moments:
        for name, parameter in trainer.encoder.named_parameters():
            if name not in saved.optimizer_steps:
                continue
            restore_steps(trainer.optimizer, parameter, saved.optimizer_steps[name])
            for row, moment_name in enumerate(MOMENT_NAMES):
                for window in own_windows(trainer.optimizer, parameter):
                    moment = moments.window(f"{moment_name}.{name}", window)
                    restore_moment(trainer.optimizer, parameter, row, window, moment)


def _state_tensors(trainer: Trainer) -> Iterator[StreamedTensor]:
    assert trainer.random_state is not None  # a run that has begun has one
    tensors = {
        "losses": torch.tensor(trainer.losses, dtype=torch.float64),
        "torch_cpu": trainer.random_state.cpu,
        "numpy_keys": torch.from_numpy(_numpy_state()[1].astype(numpy.int64)),
    }
    if trainer.random_state.on_device is not None:
        tensors["torch_device"] = trainer.random_state.on_device
    if generator := _rounding_generator(trainer):
        tensors["rounding"] = generator.get_state()
    for name, tensor in tensors.items():
        yield StreamedTensor.of(name, tensor)


def _restore_random_states(trainer: Trainer, saved: SavedRun, tensors: Mapping[str, Tensor]) -> None:
    """All but torch's generators are set now; those are set when the training begins, after all else drew from them.

    A run that goes on on another kind of device has no state of that device's generator: it goes on with the seed's.
    """
    device = trainer.encoder.device
    on_device = tensors.get("torch_device") if saved.device == device.type else None
    if device.type != "cpu" and on_device is None:
        torch.manual_seed(trainer.config.seed)
        on_device = torch.get_device_module(device).get_rng_state()
    trainer.random_state = RngState(tensors["torch_cpu"], device, on_device)
    if (generator := _rounding_generator(trainer)) and saved.device == device.type and "rounding" in tensors:
        generator.set_state(tensors["rounding"])
    version, keys, gauss = saved.python_random_state
    random.setstate((version, tuple(keys), gauss))
    kind, *rest = saved.numpy_random_state
    numpy.random.set_state((kind, tensors["numpy_keys"].numpy().astype(numpy.uint32), *rest))


def _numpy_state() -> tuple[Any, ...]:
    """Kind, keys, position and the spare normal number."""
    state = numpy.random.get_state(legacy=True)
    assert isinstance(state, tuple)
    return state


def _rounding_generator(trainer: Trainer) -> torch.Generator | None:
    """The generator of moments that are rounded at random."""
    optimizer = trainer.optimizer
    if isinstance(optimizer, WindowedAdamW) and isinstance(optimizer.moments, Bfloat16Moments):
        return optimizer.moments.generator(trainer.encoder.device)
    return None
