"""Whether a folder is that of a whole model, before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path

from splade_bench.errors import ConfigError
from splade_bench.model.model_files import file_of_model
from splade_bench.model.pooling_module import transformer_folder

_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def require_model_folder(model_name: str) -> None:
    """Refuse a path that leads to no model, files that are not what their names say, and an adapter.

    Raises:
        ConfigError: it says what is there, and what to do.
    """
    folder = Path(model_name)
    if folder.is_dir():
        _require_readable_files(model_name)
    elif folder.exists() or _is_a_path(model_name):
        raise ConfigError(f"--model-name {model_name}: there is no such folder; check the path")
    if file_of_model(model_name, _ADAPTER):  # with PEFT, transformers would load its base model for it
        raise ConfigError(
            f"--model-name {model_name}: its {_ADAPTER} says that it is an adapter (PEFT, LoRA), not a whole model; "
            "merge it into its base model (model.merge_and_unload()), and save that and the tokenizer into a new folder"
        )
    if folder.is_dir() and not (Path(transformer_folder(model_name)) / _CONFIG).is_file():
        inner = max((path.parent for path in folder.glob(f"*/{_CONFIG}")), default=None)  # final_model, of a training's
        raise ConfigError(
            f"--model-name {model_name}: there is no {_CONFIG} in the folder, so it is not that of a model; "
            + (f"did you mean {inner}?" if inner else "check the path")
        )


def _is_a_path(model_name: str) -> bool:
    """Whether a name cannot be an id of the Hub, or its first part is a folder."""
    parent = Path(model_name).parent
    inside_a_folder = parent != Path() and parent.is_dir()
    return inside_a_folder or model_name.startswith((".", "/", "~")) or model_name.count("/") > 1


def _require_readable_files(model_name: str) -> None:
    folder = Path(model_name)
    try:
        files = [path for part in {folder, Path(transformer_folder(model_name))} for path in sorted(part.iterdir())]
        beginnings = {path.name: _beginning(path) for path in files if path.is_file()}
    except OSError as error:
        raise ConfigError(f"--model-name {model_name}: cannot be read: {error.filename}: {error.strerror}") from error
    for name, beginning in beginnings.items():
        if beginning == _LFS_POINTER:
            raise ConfigError(
                f"--model-name {model_name}: {name} is a Git LFS pointer, not the file itself; "
                "run git lfs pull in that folder"
            )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER))
