"""The flags of the article's trainers, as data: what each becomes here, and what it did in their code."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from splade_bench.errors import ConfigError

logger = logging.getLogger(__name__)

_VALUE = "{}"
_NEVER_LOADED = "wrong: no checkpoint could be loaded; it logged an error and began anew"
_NOTE_WIDTH = 58


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFlag:
    """One flag of a source trainer."""

    name: str
    metavar: str = ""
    """What stands for its value; empty for a flag without one."""
    becomes: tuple[str, ...] | None = None
    """Flag and value here, with {} for the value that is given. (): it has no effect here. None: it is kept."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Values that have another name here."""
    alone: str | None = None
    """The value that it means without one. None: a value must follow."""
    implies: Mapping[str, str] = field(default_factory=dict)
    """Flags and values that come with it, unless the command line has that flag."""
    note: str
    """What it did in the source, and what is different here."""

    @property
    def ours(self) -> str:
        """What to write here instead, for people."""
        if self.becomes is None:
            return "the same"
        value = "|".join(self.values.get(name, name) for name in self.metavar.split("|"))
        flags = " ".join([*self.becomes, *(f"{flag} {implied}" for flag, implied in self.implies.items())])
        return flags.replace(_VALUE, value) or "no effect"


_BY_VALIDATION_LOSS = {"--metric-for-best-model": "validation_loss", "--eval-epochs": "1"}
# Read in the code of the repository gedankrayze/splade-model-trainer, the unified and the optimized trainer.
SOURCE_FLAGS = (
    SourceFlag(
        name="--lambda-q",
        metavar="X",
        becomes=("--query-regularizer-weight", _VALUE),
        note="weighed the batch's sum of L1 norms, which is --regularizer l1 here",
    ),
    SourceFlag(
        name="--lambda-d",
        metavar="X",
        becomes=("--document-regularizer-weight", _VALUE),
        note="weighed the batch's sum of L1 norms, which is --regularizer l1 here",
    ),
    SourceFlag(
        name="--mixed-precision",
        metavar="fp16",
        becomes=("--mixed-precision", _VALUE),
        alone="fp16",
        note="took no value and meant fp16; was switched off where there was no CUDA",
    ),
    SourceFlag(name="--fp16-opt-level", metavar="O1", becomes=(), note="no-op: was only written to the log"),
    SourceFlag(name="--force-device", note="no-op: --device alone did the same"),
    SourceFlag(
        name="--memory-efficient",
        note="wrong: collected garbage every 5 batches, and every second batch logged an error",
    ),
    SourceFlag(
        name="--early-stopping",
        becomes=(),
        implies={"--early-stopping-patience": "3", "--early-stopping-min-delta": "0.0001"} | _BY_VALIDATION_LOSS,
        note="no-op: with --val-file every training could stop early",
    ),
    SourceFlag(
        name="--early-stopping-patience",
        metavar="N",
        note="counted epochs; counts evaluations here. Had an effect without --early-stopping too",
    ),
    SourceFlag(
        name="--early-stopping-min-delta", metavar="X", note="the same. Had an effect without --early-stopping too"
    ),
    SourceFlag(
        name="--early-stopping-monitor",
        metavar="METRIC",
        becomes=("--metric-for-best-model", _VALUE),
        values={"val_loss": "validation_loss"},
        note="val_loss is validation_loss here; train_loss is refused. Wrong: a misspelt name never stopped a training",
    ),
    SourceFlag(
        name="--early-stopping-mode",
        metavar="min|max",
        becomes=("--greater-is-better", _VALUE),
        values={"min": "False", "max": "True"},
        note="was min for every metric unless it was given; the default here depends on the metric",
    ),
    SourceFlag(
        name="--save-best-only",
        becomes=("--save-best",),
        implies={"--save-steps": "0"} | _BY_VALIDATION_LOSS,
        note="wrong: final_model got the last weights, because the best ones could not be loaded "
        "(--load-best-model-at-end does that here)",
    ),
    SourceFlag(
        name="--save-freq",
        metavar="N",
        becomes=("--save-epochs", _VALUE),
        note="counted epochs. With --save-best-only, other epochs were never saved; here both flags save",
    ),
    SourceFlag(
        name="--max-checkpoints",
        metavar="N",
        becomes=("--save-total-limit", _VALUE),
        note="wrong: kept N - 1, and with 1 deleted the checkpoint that it had just saved",
    ),
    SourceFlag(name="--resume-latest", becomes=("--resume-from-checkpoint", "latest"), note=_NEVER_LOADED),
    SourceFlag(name="--resume-best", becomes=("--resume-from-checkpoint", "best"), note=_NEVER_LOADED),
    SourceFlag(
        name="--resume-from-checkpoint",
        metavar="PATH",
        becomes=("--resume-from-checkpoint", _VALUE),
        alone="latest",
        note=_NEVER_LOADED,
    ),
    SourceFlag(
        name="--log-dir", metavar="DIR", note="had text and JSON logs; is for TensorBoard here, beside log.jsonl"
    ),
    SourceFlag(name="--verbose", becomes=(), note="no-op for its own messages: its logger kept the level INFO"),
)
# tyro wants a value after a flag that may also be None.
_SHORT_FORMS = (
    SourceFlag(name="--greater-is-better", becomes=("--greater-is-better", _VALUE), alone="True", note=""),
    SourceFlag(name="--no-greater-is-better", becomes=("--greater-is-better", "False"), note=""),
)
_ROWS = {row.name: row for row in (*SOURCE_FLAGS, *_SHORT_FORMS)}
# A flag that is implied gives way to either spelling of the same decision.
_ALTERNATIVES = {"--eval-epochs": "--eval-steps"}


def translate_source_flags(arguments: Sequence[str]) -> list[str]:
    """A command line with the flags of this project only; those of the source trainers are replaced.

    Raises:
        ConfigError: a value is missing, or two flags decide the same.
    """
    translated: list[str] = []
    implied: dict[str, str] = {}
    spelled: dict[str, str] = {}  # our flag -> the flag that was given for it
    for tokens in _with_their_values(arguments):
        name, row = _row(tokens[0])
        replaced = tokens if row is None else _replace(row, tokens)
        target = replaced[0].partition("=")[0].replace("_", "-") if replaced else name
        if spelled.setdefault(target, name) != name:
            raise ConfigError(f"{name} contradicts {spelled[target]}; give one of them")
        if row:
            implied |= row.implies
            if row.becomes == () and not row.implies:
                logger.warning("%s has no effect (in the source trainers: %s)", name, row.note)
        translated += replaced
    for flag, value in implied.items():
        if not {flag, _ALTERNATIVES.get(flag)} & spelled.keys():
            translated += [flag, value]
    return translated


def source_flags_help() -> str:
    """The table of the source trainers' flags, for --help."""
    rows = [(f"{row.name} {row.metavar}".strip(), row.ours, row.note) for row in SOURCE_FLAGS]
    table = tabulate(rows, ("flag", "here", "in the source"), tablefmt="simple", maxcolwidths=[None, 34, _NOTE_WIDTH])
    return f"flags of the article's trainers that work here too:\n\n{table}"


def _with_their_values(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Each flag together with the words that follow it, up to the next flag."""
    tokens: list[str] = []
    for argument in arguments:
        if argument.startswith("--") and tokens:
            yield tokens
            tokens = []
        tokens.append(argument)
    if tokens:
        yield tokens


def _row(argument: str) -> tuple[str, SourceFlag | None]:
    """The name of a flag, and its row; None where it has none, or has a value that it cannot take."""
    name, equals, _ = argument.partition("=")
    name = name.replace("_", "-")
    row = _ROWS.get(name)
    return name, None if row and equals and not _takes_value(row) else row


def _takes_value(row: SourceFlag) -> bool:
    return bool(row.metavar) or row.alone is not None


def _replace(row: SourceFlag, tokens: Sequence[str]) -> list[str]:
    """The flag of ``row``, with its value and what else follows, as it is written here."""
    if row.becomes is None:
        return [*tokens]
    if not _takes_value(row):
        return [*row.becomes, *tokens[1:]]
    _, equals, value = tokens[0].partition("=")
    rest = tokens[1:]
    if not equals:
        value, rest = (rest[0], rest[1:]) if rest else (row.alone or "", rest)
        if not value:
            raise ConfigError(f"{row.name} {row.metavar}: the value is missing")
    return [*(part.replace(_VALUE, row.values.get(value, value)) for part in row.becomes), *rest]
