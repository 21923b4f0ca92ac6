"""A model made ready for a run; what its device does not have, or does wrong, is said before the run begins."""

from __future__ import annotations

import logging
from dataclasses import replace

from splade_bench.config import TrainConfig
from splade_bench.device import mps
from splade_bench.device.devices import device_type
from splade_bench.device.planned import planned_device
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.gradcache import largest_mini_batch

logger = logging.getLogger(__name__)


def prepare_model(encoder: SpladeEncoder, config: TrainConfig) -> TrainConfig:
    """Give an encoder the settings of a run; the settings with the similarity and the temperature that it then has.

    Raises:
        ConfigError: the model or its device cannot take one of them.
    """
    encoder.configure(config.memory, mixed_precision=config.mixed_precision, activation=config.activation)
    encoder.similarity = config.similarity or encoder.similarity
    encoder.prompts = encoder.prompts.replaced(config.query_prompt, config.document_prompt)
    if config.query_encoder == "static" and encoder.static_queries is None:
        encoder.use_static_queries()
    elif config.query_encoder == "model":
        encoder.static_queries = None
    _check_device(encoder, config)
    config = replace(config, similarity=encoder.similarity)
    return replace(config, temperature=config.softmax_temperature)  # it depends on the similarity


def _check_device(encoder: SpladeEncoder, config: TrainConfig) -> None:
    """Refuse what the encoder's device cannot do; warn of settings under which a known defect of it could show."""
    kind = device_type(encoder.device)
    if config.tf32 and kind != "cuda":
        raise ConfigError(f"--tf32: only CUDA has this number type, and the device is {kind}; use --no-tf32")
    if kind == "mps" and planned_device() is None:
        memory = encoder.memory
        cached = memory.gradient_caching
        tokens = largest_mini_batch(encoder, config)[1] if cached else config.batch_size * config.max_length
        for line in mps.warnings_for(pad_to_multiple_of=memory.pad_to_multiple_of, tokens=tokens):
            logger.warning(line)
