"""Why a model of the Hugging Face Hub cannot be had, and what to change."""

from __future__ import annotations

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

_LOG_IN = "log in (hf auth login)"
# The first class that fits: a gated model is also one that was not found.
_REASONS = (
    (GatedRepoError, f"it is gated: accept its terms on its page on the Hugging Face Hub, and {_LOG_IN}"),
    (
        RepositoryNotFoundError,
        "there is no such folder, and no such model on the Hugging Face Hub, or it is private; check the name, or "
        + _LOG_IN,
    ),
    (
        (OfflineModeIsEnabled, LocalEntryNotFoundError),
        "there is no such folder, it is not in the cache of the Hugging Face Hub, and the Hub cannot be reached, or "
        "HF_HUB_OFFLINE is set; check the name, or go online for the first use",
    ),
)


def hub_reason(error: BaseException) -> str | None:
    """What an error of the Hub, or one that was made of it, means to the user; None if it is another one."""
    chain = [error]
    # An error that was raised twice may be among its own causes.
    while (following := chain[-1].__cause__ or chain[-1].__context__) and following not in chain:
        chain.append(following)
    kinds = ((kind, reason) for kind, reason in _REASONS if any(isinstance(one, kind) for one in chain))
    return next((reason for _, reason in kinds), None)
