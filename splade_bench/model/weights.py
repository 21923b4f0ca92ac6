"""Whether the weights of a module are numbers: after a training that diverged they are NaN or infinite."""

from __future__ import annotations

from math import isfinite

from torch import nn

from splade_bench.errors import NotFiniteError


def first_weight_not_finite(module: nn.Module) -> str | None:
    """The name of the first weight or buffer of ``module`` with a NaN or infinite entry; None if there is none.

    It takes no memory beside the weights, and about the time of one pass over them.
    """
    for name, weight in module.state_dict().items():
        # The extremes are NaN if any entry is. isfinite() would make a copy.
        if weight.is_floating_point() and weight.numel() and not all(isfinite(end) for end in weight.aminmax()):
            return name
    return None


def require_finite_weights(module: nn.Module) -> None:
    """Refuse weights that are NaN or infinite, so that they are not saved.

    Raises:
        NotFiniteError: it names the first such weight.
    """
    name = first_weight_not_finite(module)
    if name is not None:
        raise NotFiniteError(
            f"the weight {name} is not finite (NaN or infinity) after the last update, so the model cannot be used; "
            "lower --learning-rate, or use a smaller --max-grad-norm"
        )
