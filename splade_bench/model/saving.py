"""A model folder as other programs expect it: readable, without traces of the run, for transformers 4 and 5."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Limits: TypeAlias = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
"""Truncation and padding of a fast tokenizer, as the library tokenizers returns them."""

TOKENIZER_CONFIG = "tokenizer_config.json"
# The same class: its names in transformers 5, and in both 4 and 5.
_NEW_CLASS, _COMMON_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def save_model_folder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    *,
    more: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a model and its tokenizer to a new or an empty folder; files that it has are overwritten.

    The tokenizer is written with ``limits``, which :func:`get_limits` returned when it was loaded. ``more`` writes
    other files into the folder.

    Raises:
        OSError: the folder cannot be written, or has a symbolic link.
    """
    if folder.is_dir() and (links := [path.name for path in folder.iterdir() if path.is_symlink()]):
        raise OSError(f"{folder}: has the symbolic link {links[0]}, through which nothing is written; remove it")
    with _write_errors(folder):
        model.save_pretrained(folder)
        run_limits = get_limits(tokenizer)
        _set_limits(tokenizer, limits)
        try:
            tokenizer.save_pretrained(folder)
        finally:
            _set_limits(tokenizer, run_limits)
        more(folder)
    change_json(folder / TOKENIZER_CONFIG, _tokenizer_for_both)
    change_json(folder / "config.json", _rotary_for_both)
    # safetensors makes its file readable by its owner only.
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)


def change_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the file again if ``change`` changes its object."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    changed = change(dict(settings))
    if changed != settings:
        path.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tokenizer_for_both(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a tokenizer in the words of transformers 4, which 5 reads too."""
    settings.pop("auto_map", None)  # of code that is not in the folder
    if settings.get("tokenizer_class") == _NEW_CLASS:
        settings["tokenizer_class"] = _COMMON_CLASS
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    return settings


def _rotary_for_both(settings: dict[str, Any]) -> dict[str, Any]:
    """ModernBERT's config with its rotary bases and its order of layers as transformers 4 reads them too.

    Of the architectures that 4 knows, only this one has several bases. Without their old names it would use others,
    and say nothing.
    """
    if settings.get("model_type") != "modernbert" or not isinstance(settings.get("rope_parameters"), dict):
        return settings
    for old, kind in (("global_rope_theta", "full_attention"), ("local_rope_theta", "sliding_attention")):
        theta = (settings["rope_parameters"].get(kind) or {}).get("rope_theta")
        if theta is not None:
            settings[old] = theta
    layers = settings.get("layer_types") or []
    every = next((number for number, kind in enumerate(layers) if number and kind == "full_attention"), len(layers))
    order = ["sliding_attention" if number % every else "full_attention" for number in range(len(layers))]
    if layers and layers == order:
        settings["global_attn_every_n_layers"] = every
    return settings


def get_limits(tokenizer: PreTrainedTokenizerBase) -> Limits:
    """The truncation and padding that a tokenizer is set to."""
    if not tokenizer.is_fast:
        return None, None
    return tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding


def _set_limits(tokenizer: PreTrainedTokenizerBase, limits: Limits) -> None:
    if not tokenizer.is_fast:
        return
    backend, (truncation, padding) = tokenizer.backend_tokenizer, limits
    backend.no_truncation()
    backend.no_padding()
    if truncation:
        backend.enable_truncation(**truncation)
    if padding:
        backend.enable_padding(**padding)


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """A full disk is an OSError, also from the libraries in Rust, which have classes of their own for it."""
    try:
        yield
    except Exception as error:
        number = _OS_ERROR.search(str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"{folder}: {error}") from error
        raise
