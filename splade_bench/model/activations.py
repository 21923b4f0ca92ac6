"""From the largest logit of a vocabulary entry to its weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor
from transformers import PretrainedConfig

from splade_bench.config import ActivationName
from splade_bench.errors import ConfigError

_CONFIG_KEY = "splade_activation"


@dataclass(frozen=True, slots=True)
class Activation:
    """A growing function of logits that are at least 0, with 0 at 0."""

    weights: Callable[[Tensor], Tensor]
    """Of logits, which it may overwrite."""
    slope: Callable[[Tensor], Tensor]
    """The derivative with respect to the logit, as a function of the weight."""


ACTIVATIONS: Mapping[ActivationName, Activation] = MappingProxyType(
    {
        # Formal et al., SPLADE, 2021. With w = log(1 + x), 1 / (1 + x) is exp(-w).
        "log1p": Activation(lambda logits: logits.log1p_(), lambda weights: torch.exp(-weights)),
        # Shen et al., 2025, arXiv 2504.14839. With w = log(1 + u) and u = log(1 + x), the slope is exp(-w) exp(-u).
        "double-log1p": Activation(
            lambda logits: logits.log1p_().log1p_(), lambda weights: torch.exp(-weights - torch.expm1(weights))
        ),
    }
)
ACTIVATION_FUNCTIONS: Mapping[str, ActivationName] = MappingProxyType({"relu": "log1p", "log1p_relu": "double-log1p"})
"""The names that sentence-transformers' SpladePooling has for them."""


def saved_activation(config: PretrainedConfig) -> ActivationName:
    """The activation that was saved with a model, or log1p.

    Raises:
        ConfigError: it is unknown.
    """
    name: ActivationName = getattr(config, _CONFIG_KEY, "log1p")
    if name not in ACTIVATIONS:
        known = ", ".join(get_args(ActivationName))
        raise ConfigError(f"{config.name_or_path}: config.json has {_CONFIG_KEY} {name}; it must be one of {known}")
    return name


def set_saved_activation(config: PretrainedConfig, activation: ActivationName) -> None:
    """Let ``config.json`` name the activation from now on, unless it is the usual one."""
    if activation != "log1p" or hasattr(config, _CONFIG_KEY):
        setattr(config, _CONFIG_KEY, activation)
