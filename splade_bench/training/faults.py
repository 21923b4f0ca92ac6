"""What a run says and changes when an optimizer step fails."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from splade_bench.batching.batches import TripleBatch
from splade_bench.errors import NotFiniteError, error_line
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.gradcache import mini_batch_limit_of

if TYPE_CHECKING:
    from splade_bench.training.trainer import Trainer

# Records that an error names.
_NAMED_RECORDS = 8
_LONGEST_REASON = 200


def half_mini_batch(encoder: SpladeEncoder, batches: Sequence[TripleBatch]) -> int | None:
    """Half the tokens of the largest mini-batch of an optimizer step; None if it is one text already.

    All its tokens, if other mini-batches keep their graphs: without these it may fit.
    """
    largest = max(batch.tokens for batch in batches)
    longest = max(length for batch in batches for group in batch.lengths for length in group)
    if encoder.memory.gradient_caching:
        largest = min(largest, mini_batch_limit_of(encoder, longest))
        if encoder.memory.activation_memory != "none":
            return largest
        if largest <= longest:
            return None
    return max(1, largest // 2)


def not_finite(trainer: Trainer, name: str, value: float, losses: Sequence[float] = ()) -> NotFiniteError:
    """The error of an optimizer step whose ``name`` is NaN or infinite.

    Args:
        trainer: in this optimizer step.
        name: loss or gradient norm.
        value: what it is.
        losses: of each batch, if they tell which one is at fault.
    """
    faulty = [batch for batch, loss in zip(trainer.step_batches, losses, strict=False) if not isfinite(loss)]
    batches = faulty or trainer.step_batches
    names = [trainer.source.record_name(row) for batch in batches for row in batch.rows]
    more = f" and {len(names) - _NAMED_RECORDS} more" if len(names) > _NAMED_RECORDS else ""
    records = f" on {', '.join(names[:_NAMED_RECORDS])}{more}" if names else ""
    advice = "try a lower --learning-rate or --max-grad-norm 1"
    if trainer.loss_scale.adapts:
        advice = "the value is too large for float16: use --mixed-precision bf16 or no"
    return NotFiniteError(f"optimizer step {trainer.state.global_step + 1}: the {name} is {value}{records}; {advice}")


def out_of_memory(trainer: Trainer, error: BaseException, phase: str, *, can_halve: bool) -> str:
    """The line of a training that ran out of memory: where, how large the step was, and what helps.

    Args:
        trainer: as the error left it.
        error: of an allocator.
        phase: what the training did.
        can_halve: its mini-batches are not halved yet when no memory is left.
    """
    memory, window = trainer.encoder.memory, trainer.step_batches
    halve = "add --on-oom halve, " if can_halve and trainer.processes.size == 1 else ""
    advice = (
        "remove --memory-mode or --head, whichever you gave: the default head never makes all logits"
        if memory.head == "eager"
        else f"{halve}run splade-bench fit with these flags and a --budget to find settings that fit, or "
        "--optimizer-states disk or --activation-checkpointing; in a new run, a smaller --max-length or --batch-size"
    )
    sizes = f" ({describe_step(trainer.encoder, window)})" if window else ""
    return f"out of memory during {phase}{sizes}: {error_line(error)[:_LONGEST_REASON]}; {advice}"


def describe_step(encoder: SpladeEncoder, batches: Sequence[TripleBatch]) -> str:
    """The sizes that decide the memory of an optimizer step."""
    if not batches:
        return "between two optimizer steps"
    batch = max(batches, key=lambda one: one.tokens)
    texts, longest = sum(map(len, batch.lengths)), max(max(group) for group in batch.lengths)
    parts = f"batch of {len(batch)} queries, {texts} texts of at most {longest} tokens"
    if encoder.memory.gradient_caching:
        parts += f", mini-batches of {max(longest, min(batch.tokens, mini_batch_limit_of(encoder, longest)))} tokens"
    return parts
