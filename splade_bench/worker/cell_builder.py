"""Builds the parts of a cell: corpus, batches, model, trainer."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.sources import SyntheticBatches, TripleBatches, TripleSource, widest_batch
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.records import Corpus, at_equal_distances, sha256_of_texts
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.devices import resolve_device
from splade_bench.evaluation.evaluator import evaluate
from splade_bench.files import whole_folder, write_whole_file
from splade_bench.grid.cell import OWN_TRAINER, Cell
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.machine import source_tree, versions
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.loading import load_config, load_masked_lm, load_tokenizer, untrained_model
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE, build_preset, set_active_share
from splade_bench.model.start import apply_start
from splade_bench.starts import CALIBRATION_DOCUMENTS, PACKAGED_MODELS
from splade_bench.training.state import TrainObserver
from splade_bench.training.together import OneProcess
from splade_bench.training.trainer import Trainer
from splade_bench.training.validation_loss import validation_loss
from splade_bench.worker.flops import cached_step_flops, direct_step_flops
from splade_bench.worker.peers import PeerTrainer, make_peer


class CellBuilder:
    """Builds the same parts for the same cell in each call.

    Args:
        corpus_folder: the prepared corpus; None for synthetic texts.
        model_folder: the weights that every trainer of the workload loads, for a workload with shared weights.
        memory: settings in place of those of the cell's memory mode.
        processes: those that train the cell together, as this one sees them.
    """

    def __init__(
        self,
        cell: Cell,
        corpus_folder: str | None,
        model_folder: str | None,
        memory: MemoryConfig | None = None,
        processes: OneProcess | None = None,
    ) -> None:
        self.cell = cell
        self.processes = processes or OneProcess()
        self.model_folder = Path(model_folder) if model_folder else None
        self.config = replace(cell.train_config, memory=memory or cell.train_config.memory)
        self.workload = WORKLOADS[cell.workload]
        self.device = resolve_device(cell.device, force=True)
        self.prepared = PreparedCorpus(Path(corpus_folder)) if corpus_folder else None
        self.corpus: Corpus | None = self.prepared.load() if self.prepared else None

    def encoder(self) -> SpladeEncoder:
        """The cell's model with its first weights, on its device."""
        if self.workload.model_name in PACKAGED_MODELS:
            return self._started_encoder()
        encoder = self.new_encoder()
        if self.model_folder:  # its tokenizer knows no words: the texts are synthetic
            encoder = SpladeEncoder(load_masked_lm(str(self.model_folder)), encoder.tokenizer)
        return encoder.to(self.device)

    def new_encoder(self) -> SpladeEncoder:
        """The same model with seeded weights that are not loaded, on the CPU: it can be made of fake tensors."""
        if self.workload.model_name in PACKAGED_MODELS:
            config = load_config(self.workload.model_name)
            config.update(self._dropout)
            return SpladeEncoder(untrained_model(config), load_tokenizer(self.workload.model_name))
        vocab_size = MODEL_PRESETS[self.workload.model_name].vocab_size
        if self.prepared:
            tokenizer = self.prepared.load_tokenizer(vocab_size)
        else:
            tokenizer = train_tokenizer((), vocab_size=vocab_size)  # synthetic token ids need none
        return build_preset(
            self.workload.model_name,
            tokenizer,
            seed=self.cell.seed,
            dropout=self.workload.dropout,
            attention_dropout=self.cell.attention_dropout,
        )

    def _started_encoder(self) -> SpladeEncoder:
        """The pretrained model of the workload, which starts as the workload says."""
        assert self.corpus is not None
        workload, length = self.workload, self.config.max_length
        name = workload.model_name
        model = load_masked_lm(name, needs_head=workload.start != "lexical", **self._dropout)
        encoder = SpladeEncoder(model, load_tokenizer(name)).to(self.device)
        documents = [triple.positive for triple in at_equal_distances(self.corpus.triples, CALIBRATION_DOCUMENTS)]
        apply_start(encoder, workload.start, documents, max_length=length, active_dims=workload.start_active_dims)
        encoder.similarity = workload.similarity  # also of the model that is evaluated before any training
        return encoder

    @property
    def _dropout(self) -> dict[str, float]:
        """Of BERT's config."""
        return {
            "hidden_dropout_prob": self.workload.dropout,
            "attention_probs_dropout_prob": self.cell.attention_dropout,
        }

    def save_weights(self) -> Path:
        """Make the folder from which every trainer of this workload loads the same weights, unless it exists."""
        assert self.model_folder is not None
        encoder = self.new_encoder().to(self.device)
        # Of the same padding in every mode, so that the weights are the same.
        source = replace(self._synthetic(encoder.vocab_size, 1, warm_up=False), padding="longest")
        documents = next(source.batches(epoch=1)).documents[0]
        set_active_share(encoder, documents, TRAINED_ACTIVE_SHARE)
        with whole_folder(self.model_folder) as folder:
            encoder.save_pretrained(folder)
        return self.model_folder

    def trainer(self, observers: Sequence[TrainObserver]) -> Trainer | PeerTrainer:
        """The cell's trainer with its model and batches."""
        if self.cell.trainer == OWN_TRAINER:
            encoder = self.encoder()
            source = self.source(encoder)
            return Trainer(encoder, source, self.config, observers=observers, processes=self.processes)
        assert self.model_folder is not None
        peer = make_peer(self.cell.trainer, self.cell.trainer_size, self.model_folder, self.config, self.device)
        return PeerTrainer(peer, self._timed_source(), self.config, observers=observers)

    def source(self, encoder: SpladeEncoder) -> TripleSource:
        """The cell's training batches: the workload's number of queries, sampled by seed."""
        if self.corpus is None:
            return replace(self._timed_source(), share=self.processes.share)
        count = min(self.workload.queries, len(self.corpus.triples))
        triples = random.Random(self.cell.seed).sample(list(self.corpus.triples), count)
        share = self.processes.share
        return TripleBatches.for_config(triples, encoder.tokenizer, self.config, encoder.device, encoder.prompts, share)

    def toy(self) -> tuple[SpladeEncoder, TripleSource, TrainConfig]:
        """A tiny run on the cell's path through the code: it loads the kernels and starts the threads."""
        vocab_size = MODEL_PRESETS["toy"].vocab_size
        encoder = build_preset("toy", train_tokenizer((), vocab_size=vocab_size), seed=0).to(self.device)
        source = replace(self._synthetic(vocab_size, 1, warm_up=False), share=self.processes.share)
        return encoder, source, replace(self.config, max_steps=2)

    def step_flops(self) -> dict[str, int]:
        """Floating-point operations of a step on the last batch that is trained on, by the names of a cell's fields."""
        batches = islice(self._timed_source().batches(epoch=0), self.config.max_steps)
        preset, batch = MODEL_PRESETS[self.workload.model_name], deque(batches, maxlen=1)[0]
        return {
            "step_flops": cached_step_flops(preset, batch),
            "direct_step_flops": direct_step_flops(preset, batch),
        }

    def quality(self, encoder: SpladeEncoder) -> dict[str, object]:
        """Held-out figures of a trained encoder; none for synthetic texts, which have no meaning to learn."""
        if self.prepared is None or self.corpus is None or self.corpus.test is None:
            return {}
        figures: dict[str, object] = {
            "validation_loss": validation_loss(encoder, self.corpus.test_triples, self.config)
        }
        if self.workload.ranked:
            figures["metrics"] = evaluate(encoder, self.corpus.test, max_length=self.config.max_length)
            # The untrained model is the same in every cell of a workload and seed, so it is evaluated once.
            key = sha256_of_texts(self.cell.workload, self.cell.seed, self.device.type, source_tree(), versions())[:16]
            path = self.prepared.folder / f"untrained-{key}.json"
            if not path.is_file():
                untrained = evaluate(self.encoder(), self.corpus.test, max_length=self.config.max_length)
                write_whole_file(path, json.dumps(untrained))
            figures["metrics_before"] = json.loads(path.read_text(encoding="utf-8"))
        return figures

    def _timed_source(self) -> SyntheticBatches:
        vocab_size = MODEL_PRESETS[self.workload.model_name].vocab_size
        batches = self.workload.queries // self.cell.batch_size
        if self.workload.warm_up_batch:
            batches = self.config.max_steps or 1
        return self._synthetic(vocab_size, batches, warm_up=self.workload.warm_up_batch)

    def _synthetic(self, vocab_size: int, batches_per_epoch: int, *, warm_up: bool) -> SyntheticBatches:
        return SyntheticBatches(
            batch_size=self.cell.batch_size,
            max_length=self.workload.max_length,
            vocab_size=vocab_size,
            negatives_per_query=self.config.negatives_per_query,
            batches_per_epoch=max(1, batches_per_epoch),
            seed=self.cell.seed,
            lengths=self.workload.lengths,
            padding=self.config.memory.padding,
            warm_up=warm_up,
        )


@dataclass(frozen=True, slots=True)
class WidestBatch:
    """The widest batch of another source's first epoch, again and again: it decides the peak memory."""

    source: TripleSource
    batches_per_epoch: int = 1_000_000

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        return repeat(widest_batch(self.source), self.batches_per_epoch - start)

    def record_name(self, row: int) -> str:
        return self.source.record_name(row)
