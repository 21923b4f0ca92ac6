"""Command lines of a training: flags to settings, with the defaults that model, mode and recipe decide, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from splade_bench.cli.arguments import given_flags, parse, to_flags
from splade_bench.cli.flags import DEFAULT_MODEL, TrainFlags
from splade_bench.cli.source_flags import source_flags_help, translate_source_flags
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.fields import option, require_range
from splade_bench.memory_modes import DEFAULT_MEMORY_MODE, fields_of_technique, memory_mode
from splade_bench.planner.candidates import SEARCHED_FIELDS
from splade_bench.recipes import RECIPES
from splade_bench.starts import PACKAGED_MODELS, default_start

# Random weights on short texts need these; the defaults of TrainConfig suit a pretrained model. Chosen on the
# development split of the embedded corpus.
PRESET_DEFAULTS: Mapping[str, Any] = {"max_length": 64, "batch_size": 32, "learning_rate": 5e-4}
# A number of steps -> the setting that decides without it.
_STEPS_OR = {
    "warmup_steps": "warmup_ratio",
    "regularizer_warmup_steps": "regularizer_warmup_ratio",
    "max_steps": "epochs",
}
_Command = TypeVar("_Command", bound=TrainFlags)


def parse_train_command(command: type[_Command], arguments: Sequence[str], *, verb: str) -> _Command:
    """Parse the flags of a training, or those of the source trainers for the same.

    The model and the memory mode decide the defaults of the other flags.

    Raises:
        ConfigError: an unknown flag, a value that cannot be used, or flags that contradict each other.
    """
    arguments = translate_source_flags(arguments)
    given = given_flags(arguments)
    default = train_defaults(
        command,
        given.get("model_name", DEFAULT_MODEL),
        given.get("memory_mode", DEFAULT_MEMORY_MODE),
        _recipe_of(given),
        given.keys(),
    )
    try:
        parsed = parse(command, arguments, verb=verb, default=default)
    except SystemExit:  # --help
        print(source_flags_help())
        raise
    if parsed.saving.keeps_best and not parsed.validating.is_on:
        flag = "--load-best-model-at-end" if parsed.saving.load_best_model_at_end else "--save-best"
        raise ConfigError(f"{flag} has no effect without --eval-steps; add --eval-steps N")
    require_range(parsed, "start_active_dims", at_least=1)
    if "start_active_dims" in given and parsed.start == "as-is":
        raise ConfigError("--start-active-dims has no effect with --start as-is; add --start calibrated or lexical")
    _require_effect(parsed.config, given.keys())
    return parsed


def _require_effect(config: TrainConfig, given: Collection[str]) -> None:
    """Refuse a flag that changes nothing beside the others."""
    losses = config.ranking_weights.keys()
    needs = (
        ("margin", "margin" in losses, "--loss margin"),
        ("teacher_temperature", "kl" in losses, "--loss kl"),
        ("temperature", bool({"contrastive", "kl"} & losses), "--loss contrastive or kl"),
        ("query_learning_rate", config.query_encoder != "model", "--query-encoder static"),
        *(
            (ratio, getattr(config, steps) is None, f"{option(steps)} None")
            for steps, ratio in _STEPS_OR.items()
            if ratio != "epochs"
        ),
    )
    for name, has_effect, instead in needs:
        if name in given and not has_effect:
            raise ConfigError(f"{option(name)} has no effect without {instead}; remove it, or add {instead}")


def refuse_query_learning_rate(arguments: Sequence[str]) -> None:
    """Refuse the rate of static query weights in the command line of a model that turns out to have none.

    Raises:
        ConfigError: it is there.
    """
    if "query_learning_rate" in given_flags(arguments):
        raise ConfigError(
            "--query-learning-rate has no effect: the model has no static weights of queries; remove it, or add "
            "--query-encoder static"
        )


def train_defaults(
    command: type[_Command],
    model_name: str,
    mode: str,
    recipe: str | None = None,
    given: Collection[str] = (),
) -> _Command:
    """The meaning of a command line that names only this model, this memory mode and this recipe.

    Of a recipe's numbers of steps, those are left out that a flag of the command line would have no effect beside:
    ``given`` are the fields of its flags.

    Raises:
        ConfigError: there is no such mode or recipe.
    """
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"--recipe {recipe}: there is none of this name; choose from {', '.join(RECIPES)}")
    values = dict(PRESET_DEFAULTS if model_name in MODEL_PRESETS else {})
    if packaged := PACKAGED_MODELS.get(model_name):
        values |= packaged.defaults
    if recipe:
        replaced = {steps for steps, other in _STEPS_OR.items() if other in given}
        values |= {name: value for name, value in RECIPES[recipe].settings.items() if name not in replaced}
    return command(start=default_start(model_name), config=TrainConfig(**values, memory=memory_mode(mode)))


def searched_fields_given(arguments: Sequence[str]) -> frozenset[str]:
    """The fields that ``fit`` would choose but a command line sets, by a flag or by a technique in --memory-mode."""
    given = given_flags(arguments)
    return SEARCHED_FIELDS & (given.keys() | fields_of_technique(given.get("memory_mode", "")))


def train_arguments(command: TrainFlags, config: TrainConfig) -> list[str]:
    """The flags with which ``train`` runs the training of ``command`` with this configuration."""
    named = {one.name: getattr(command, one.name) for one in fields(TrainFlags)}
    wanted = TrainFlags(**named | {"config": config, "json": False})
    default = train_defaults(TrainFlags, command.model_name, command.placement.memory_mode, command.recipe)
    return list(to_flags(wanted, default))


def _recipe_of(given: Mapping[str, str]) -> str | None:
    recipe = given.get("recipe")
    return None if recipe == "None" else recipe
