"""The encoder that a training begins with, as ``--start`` says, or goes on with."""

from __future__ import annotations

import torch

from splade_bench.cli.flags import TrainFlags
from splade_bench.cli.sources import load_encoder
from splade_bench.data.records import Corpus, at_equal_distances
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.start import apply_start
from splade_bench.starts import CALIBRATION_DOCUMENTS
from splade_bench.training.checkpoints import Checkpoint


def started_encoder(
    command: TrainFlags, corpus: Corpus, checkpoint: Checkpoint | None, device: torch.device
) -> SpladeEncoder:
    """The encoder of a command line, on its device.

    Raises:
        ConfigError: the model cannot be loaded, or cannot start so.
        DataError: the folder of the model is a checkpoint that is damaged.
    """
    start, config = command.start, command.config
    if checkpoint and start != "as-is":  # it has started, and its head may have parts that the model lacks
        return load_encoder(str(checkpoint.path), corpus, seed=config.seed).to(device)
    encoder = load_encoder(command.model_name, corpus, seed=config.seed, needs_head=start != "lexical").to(device)
    encoder.prompts = encoder.prompts.replaced(config.query_prompt, config.document_prompt)
    documents = [triple.positive for triple in at_equal_distances(corpus.triples, CALIBRATION_DOCUMENTS)]
    apply_start(encoder, start, documents, max_length=config.max_length, active_dims=command.start_active_dims)
    return encoder
