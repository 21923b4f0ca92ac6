"""Published training settings as rows of data, without torch: ``--recipe NAME`` makes them the defaults of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """The settings of a published training."""

    name: str
    summary: str
    source: str
    settings: Mapping[str, Any]
    """Fields of :class:`splade_bench.config.TrainConfig`. The others keep their defaults."""


_NAVER_HF = "naver/splade: conf/hf/training_mse.yaml, conf/train/config/hf_baseline_mse.yaml"
_RECIPES = (
    Recipe(
        "article",
        "The article's trainers: hinge and sums of L1 norms.",
        "gedankrayze/splade-model-trainer: src/unified/trainer.py",
        {
            "loss": "margin",
            "margin": 0.2,
            "negatives_per_query": 1,
            "max_length": 512,
            "batch_size": 8,
            "learning_rate": 5e-5,
            "epochs": 3,
            "regularizer": "l1",
            "query_regularizer_weight": 1e-4,
            "document_regularizer_weight": 1e-4,
            "regularizer_warmup_steps": 0,
        },
    ),
    Recipe(
        "splade-pp",
        "SPLADE++ EnsembleDistil: margins of a teacher.",
        "naver/splade: conf/config_splade++_cocondenser_ensembledistil.yaml, conf/train/config/splade.yaml",
        {
            "loss": "margin-mse",
            "negatives_per_query": 1,
            "max_length": 256,
            "batch_size": 128,
            "learning_rate": 2e-5,
            "max_steps": 150_000,
            "warmup_steps": 6000,
            "weight_decay": 0.01,
            "regularizer": "flops",
            "query_regularizer_weight": 0.5,
            "document_regularizer_weight": 0.4,
            "regularized_documents": "all",
            "regularizer_warmup_steps": 50_000,
        },
    ),
    Recipe(
        "splade-v3",
        "SPLADE-v3: divergence and margins of a teacher, eight negatives.",
        f"{_NAVER_HF}; Lassance et al., 2024, arXiv 2403.06789",
        {
            "loss": "kl+0.05*margin-mse",
            "negatives_per_query": 8,
            "max_length": 128,
            "batch_size": 20,
            "learning_rate": 2e-5,
            "epochs": 5,
            "warmup_ratio": 0.01,
            "regularizer": "flops",
            "query_regularizer_type": "mean-l1",
            "query_regularizer_weight": 0.01,
            "document_regularizer_weight": 0.02,
            "regularized_documents": "all",
            "regularizer_warmup_steps": 30_000,
            "weight_decay": 0.0,
        },
    ),
    Recipe(
        "light-splade",
        "light-splade with a teacher.",
        "bizreach-inc/light-splade: config/training/splade_training_distill.yaml",
        {
            "loss": "margin-mse",
            "negatives_per_query": 1,
            "max_length": 256,
            "batch_size": 24,
            "learning_rate": 2e-5,
            "max_steps": 150_000,
            "warmup_steps": 4000,
            "weight_decay": 0.01,
            "regularizer": "flops",
            "query_regularizer_weight": 0.4,
            "document_regularizer_weight": 0.32,
            "regularized_documents": "all",
            "regularizer_warmup_steps": 50_000,
        },
    ),
    Recipe(
        "light-splade-in-batch",
        "light-splade without a teacher.",
        "bizreach-inc/light-splade: config/training/splade_training_triplet.yaml",
        {
            "loss": "contrastive",
            "negatives_per_query": 1,
            "max_length": 256,
            "batch_size": 24,
            "learning_rate": 2e-5,
            "max_steps": 100_000,
            "warmup_steps": 6000,
            "weight_decay": 0.01,
            "regularizer": "flops",
            "query_regularizer_weight": 0.01,
            "document_regularizer_weight": 0.008,
            "regularized_documents": "all",
            "regularizer_warmup_steps": 50_000,
        },
    ),
    Recipe(
        "inference-free",
        "Queries without a model: a learned weight for each token.",
        "sentence-transformers: documentation of inference-free SPLADE; Geng et al., 2024, arXiv 2411.04403",
        {
            "query_encoder": "static",
            "query_learning_rate": 1e-3,
            "loss": "contrastive",
            "negatives_per_query": 0,
            "max_length": 256,
            "batch_size": 16,
            "learning_rate": 2e-5,
            "epochs": 1,
            "regularizer": "flops",
            "query_regularizer_weight": 0.0,
            "document_regularizer_weight": 3e-4,
            "weight_decay": 0.0,
            "warmup_steps": 0,
        },
    ),
    Recipe(
        "sentence-transformers",
        "Its example on Natural Questions: in-batch negatives alone.",
        "sentence-transformers: examples/sparse_encoder/training/retrievers/train_splade_nq.py",
        {
            "loss": "contrastive",
            "negatives_per_query": 0,
            "max_length": 256,
            "batch_size": 12,
            "learning_rate": 2e-5,
            "epochs": 1,
            "regularizer": "flops",
            "query_regularizer_weight": 5e-5,
            "document_regularizer_weight": 3e-5,
            "weight_decay": 0.0,
            "warmup_steps": 0,
        },
    ),
    Recipe(
        "sentence-transformers-margin-mse",
        "Its example with a teacher on MS MARCO.",
        "sentence-transformers: examples/sparse_encoder/training/distillation/train_splade_msmarco_margin_mse.py",
        {
            "loss": "margin-mse",
            "negatives_per_query": 1,
            "max_length": 256,
            "batch_size": 16,
            "learning_rate": 2e-5,
            "epochs": 1,
            "regularizer": "flops",
            "query_regularizer_weight": 0.1,
            "document_regularizer_weight": 0.08,
            "regularized_documents": "all",
            "weight_decay": 0.0,
            "warmup_steps": 0,
        },
    ),
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})
