"""What a cell is made of: its corpus, its batches, its model."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from splade_bench.batching.batches import SyntheticBatches, TripleBatch, TripleSource
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.records import Corpus, sha256_of_texts
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.devices import resolve_device
from splade_bench.evaluation.evaluator import evaluate
from splade_bench.files import whole_folder, write_whole_file
from splade_bench.grid.cell import OWN_TRAINER, Cell
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.machine import source_tree, versions
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE, build_preset, set_active_share
from splade_bench.training.trainer import Trainer, TrainObserver, text_batches
from splade_bench.training.validation import validation_loss
from splade_bench.worker.flops import cached_step_flops
from splade_bench.worker.peers import PeerTrainer, make_peer

_WARM_UP_STEPS = 2


class CellBuilder:
    """Builds the same parts for the same cell, however often it is asked."""

    def __init__(self, cell: Cell, corpus_folder: Path | None, model_folder: Path | None = None) -> None:
        self.cell = cell
        self.model_folder = model_folder
        self.config = cell.train_config
        self.workload = WORKLOADS[cell.workload]
        self.device = resolve_device(cell.device, force=True)
        self.prepared = PreparedCorpus(corpus_folder) if corpus_folder else None
        self.corpus: Corpus | None = self.prepared.load() if self.prepared else None

    def encoder(self) -> SpladeEncoder:
        """The cell's model with its first weights, on its device."""
        if self.model_folder:
            return SpladeEncoder.from_pretrained(str(self.model_folder)).to(self.device)
        return self._new_encoder().to(self.device)

    def planned_encoder(self) -> SpladeEncoder:
        """A model like :meth:`encoder`'s where tensors are fake: no weights can be loaded there, and nothing moved."""
        return self._new_encoder()

    def _new_encoder(self) -> SpladeEncoder:
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

    def save_weights(self) -> None:
        """Make the folder from which every trainer of this workload loads the same weights."""
        assert self.model_folder is not None
        encoder = self._new_encoder().to(self.device)
        source = replace(self._synthetic(encoder.vocab_size, 1, warm_up=False), padding="longest")  # whatever the mode
        documents = next(source.batches(epoch=1)).documents[0]
        set_active_share(encoder, documents, TRAINED_ACTIVE_SHARE)
        with whole_folder(self.model_folder) as folder:  # one that is there is taken as it is
            encoder.save_pretrained(folder)

    def trainer(self, observers: Sequence[TrainObserver]) -> Trainer | PeerTrainer:
        """Whoever trains the cell, with the model and the batches, ready to go."""
        if self.cell.trainer == OWN_TRAINER:
            encoder = self.encoder()
            return Trainer(encoder, self.source(encoder), self.config, observers=observers)
        assert self.model_folder is not None
        peer = make_peer(self.cell.trainer, self.cell.trainer_size, self.model_folder, self.config)
        return PeerTrainer(peer, self._timed_source(), self.config, observers=observers)

    def source(self, encoder: SpladeEncoder) -> TripleSource:
        """The cell's training batches: the workload's number of queries, drawn by seed."""
        if self.corpus is None:
            return self._timed_source()
        count = min(self.workload.queries, len(self.corpus.triples))
        triples = random.Random(self.cell.seed).sample(list(self.corpus.triples), count)
        return text_batches(triples, encoder, self.config)

    def toy(self) -> tuple[SpladeEncoder, TripleSource, TrainConfig]:
        """A run that costs nothing and takes the cell's path through the code, to load kernels and start threads."""
        vocab_size = MODEL_PRESETS["toy"].vocab_size
        encoder = build_preset("toy", train_tokenizer((), vocab_size=vocab_size), seed=0).to(self.device)
        return encoder, self._synthetic(vocab_size, 1, warm_up=False), replace(self.config, max_steps=_WARM_UP_STEPS)

    def step_flops(self) -> int:
        """Of the last batch that is trained on."""
        batches = islice(self._timed_source().batches(epoch=0), self.config.max_steps)
        return cached_step_flops(MODEL_PRESETS[self.workload.model_name], deque(batches, maxlen=1)[0])

    def quality(self, encoder: SpladeEncoder) -> dict[str, object]:
        """Held-out figures of a trained encoder; empty for synthetic workloads, which have no meaning to learn."""
        if self.corpus is None or self.corpus.test is None:
            return {}
        figures: dict[str, object] = {
            "validation_loss": validation_loss(encoder, self.corpus.test_triples, self.config)
        }
        if self.workload.ranked:
            figures["metrics"] = self._metrics(encoder)
            figures["metrics_before"] = self._metrics_before()
        return figures

    def _metrics(self, encoder: SpladeEncoder) -> dict[str, float]:
        assert self.corpus is not None and self.corpus.test is not None
        return evaluate(encoder, self.corpus.test, max_length=self.config.max_length)

    def _metrics_before(self) -> dict[str, float]:
        """Figures of the untrained model: the same for every cell of a workload and seed, so taken once on disk."""
        assert self.prepared is not None
        key = sha256_of_texts(self.cell.workload, self.cell.seed, self.device.type, source_tree(), versions())[:16]
        name = f"untrained-{key}.json"
        path = self.prepared.folder / name
        if path.is_file():
            figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
            return figures
        figures = self._metrics(self.encoder())
        write_whole_file(path, json.dumps(figures))
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
    """The widest batch of another source's first epoch, over and over: what decides its peak memory."""

    source: TripleSource
    batches_per_epoch: int = 1_000_000

    def batches(self, epoch: int) -> Iterator[TripleBatch]:
        widest = max(self.source.batches(0), key=lambda batch: batch.tokens)
        for _ in range(self.batches_per_epoch):
            yield widest
