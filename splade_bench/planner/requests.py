"""A training to plan or to find settings for, described so that another process can do it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from math import inf

from transformers import PreTrainedTokenizerBase

from splade_bench.batching.sources import order_bytes
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.records import Corpus, IndexedTriples
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.planned import PlannedAllocator, PlannedDevice
from splade_bench.errors import ConfigError, PlanError, SpladeBenchError, TrainingError, error_line
from splade_bench.measure.rss import known_rss_bytes
from splade_bench.model import loading
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.model_files import file_of_model
from splade_bench.model.presets import build_preset, wrap_tokenizer
from splade_bench.model.proving import prove_architecture
from splade_bench.model.start import apply_start, require_active_dims
from splade_bench.model.static_queries import QUERY_WEIGHTS_NAME
from splade_bench.planner.candidates import Candidates
from splade_bench.planner.fitting import PlannedTraining, TimeLimit, why_nothing_fits
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.recorded_reads import RecordedReads, knowing
from splade_bench.planner.rehearsal import Lengths, on_fake_tensors
from splade_bench.planner.trials import Fit, SearchEnded
from splade_bench.starts import StartName
from splade_bench.training.gradcache import sized_for
from splade_bench.units import format_bytes

# Bytes read, text of up to 4 bytes a character, and its parts.
_COPIES_OF_A_RECORD = 9
# Vocabulary of a tokenizer that no text is given to.
_BLANK_VOCAB_SIZE = 512
_LONGEST_REASON = 200
# What a small model is started with.
_TOY_DOCUMENTS, _TOY_LENGTH = ("a", "a b c"), 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """A training to plan, or to find settings for."""

    model_name: str
    """A preset, the folder of a model, or a Hub id. Of a folder only the config is read."""
    config: TrainConfig
    device_type: str
    budget_bytes: int | None
    lengths: Lengths
    active_share: float
    data_bytes: int = 0
    """Host memory that the files of a training take during the training."""
    resident_bytes: int = 0
    """What the process of the training holds beside the model. A plan counts at least so much."""
    given: frozenset[str] = frozenset()
    """The searched fields that are set, which a fit keeps."""
    allow_inexact: bool = False
    limit: TimeLimit | None = None
    """Of the search; None: it takes the time that it takes."""

    def __post_init__(self) -> None:
        memory, budget_bytes = self.config.memory, self.budget_bytes
        if budget_bytes is not None and budget_bytes < memory.activation_memory_bytes < inf:
            raise ConfigError(
                f"--activation-memory {memory.activation_memory}: more than the budget of {format_bytes(budget_bytes)}"
            )

    @property
    def required_budget_bytes(self) -> int:
        """The budget; raises a :class:`ConfigError` if there is none, which a plan allows and a fit does not."""
        if self.budget_bytes is None:
            raise ConfigError(
                f"--device {self.device_type} is not in this machine, so its memory is unknown; give --budget"
            )
        return self.budget_bytes


def sized(request: PlanRequest) -> PlanRequest:
    """The request with the mini-batches that a training on an accelerator has if its budget is free when it starts."""
    if request.device_type == "cpu" or request.budget_bytes is None:
        return request
    with _planning(request), on_fake_tensors(PlannedDevice(request.device_type, PlannedAllocator())):
        encoder = planned_encoder(request.model_name)()
        memory = sized_for(request.config.memory, encoder, request.budget_bytes)
    return replace(request, config=replace(request.config, memory=memory))


def make_plan(request: PlanRequest) -> MemoryPlan:
    """The plan of a training.

    Raises:
        ConfigError: the budget is below the memory that any batch takes, or the architecture cannot be trained.
        PlanError: the planner fails.
    """
    planned = _planned(request)
    with _planning(request):
        made = planned.plan(request.config, request.lengths, within_bytes=request.budget_bytes)
    made.require_floor(request.budget_bytes)
    return made


def make_fit(request: PlanRequest, *, whole_frontier: bool = True) -> Fit:
    """The fastest settings that fit the budget. Step times are predicted if the device is in this machine.

    ``whole_frontier`` as in :func:`splade_bench.planner.fit.fit`.

    Raises:
        ConfigError: there is no budget, it is below the memory that any batch takes, or the architecture cannot be
            trained.
        PlanError: the planner fails.
    """
    candidates = Candidates(
        request.config, given=request.given, device=request.device_type, allow_inexact=request.allow_inexact
    )
    budget_bytes = request.required_budget_bytes
    planned = _planned(request)
    with _planning(request):
        found = planned.fit(
            candidates, request.config, request.lengths, limit=request.limit, whole_frontier=whole_frontier
        )
    if found.chosen is None:
        found.smallest.plan.require_floor(budget_bytes)
    return found


def nothing_fits(request: PlanRequest, found: Fit) -> str:
    """Why nothing fits, and what to change."""
    more = "" if request.allow_inexact else ", or add --allow-inexact"
    why = why_nothing_fits(found, request.required_budget_bytes)
    return f"{why}. Choose a smaller --max-length or --batch-size{more}"


def planned_encoder(model_name: str) -> Callable[[], SpladeEncoder]:
    """A function that makes an encoder of a model's shapes, without its weights and tokenizer: for fake tensors.

    Raises:
        ConfigError: the model's config cannot be loaded.
    """
    if model_name in MODEL_PRESETS:
        tokenizer = train_tokenizer((), vocab_size=MODEL_PRESETS[model_name].vocab_size)
        return lambda: build_preset(model_name, tokenizer, seed=0)
    config, blank = loading.load_config(model_name), _blank_tokenizer()
    has_static_queries = file_of_model(model_name, QUERY_WEIGHTS_NAME) is not None

    def make() -> SpladeEncoder:
        encoder = SpladeEncoder(loading.untrained_model(config), blank)
        if has_static_queries:
            encoder.use_static_queries()
        return encoder

    return make


def require_start(model_name: str, start: StartName, active_dims: int) -> None:
    """Refuse a start that a training refuses: a small model of the architecture is started so.

    Raises:
        ConfigError: the architecture has no such start, the vocabulary has not so many entries, or a training refuses
            the architecture.
    """
    if start == "as-is":
        return
    small = None if model_name in MODEL_PRESETS else _proved_architecture(model_name)
    with on_fake_tensors(PlannedDevice("cpu", PlannedAllocator())):
        vocab_size = planned_encoder(model_name)().vocab_size
    require_active_dims(active_dims, vocab_size)
    if small:
        apply_start(small, start, _TOY_DOCUMENTS, max_length=_TOY_LENGTH, active_dims=1)


@contextmanager
def _planning(request: PlanRequest) -> Iterator[None]:
    """Refuse an architecture that a training refuses. What fails inside the block is a fault of the planner's.

    A verdict must not be made of it: an architecture that was never planned may do what fake tensors cannot.
    """
    name, reads = request.model_name, RecordedReads()
    if name not in MODEL_PRESETS:
        with reads:
            _proved_architecture(name)
    try:
        with knowing(reads):
            yield
    except TrainingError as error:
        raise _plan_error(name, error) from error
    except (SpladeBenchError, SearchEnded, OSError, MemoryError):
        raise
    except Exception as error:
        raise _plan_error(name, error) from error


def _proved_architecture(model_name: str) -> SpladeEncoder | None:
    """A small model of an architecture that is not refused; None if none can be made."""
    return prove_architecture(SpladeEncoder, loading.load_config(model_name), _blank_tokenizer(), model_name=model_name)


def _plan_error(model_name: str, error: Exception) -> PlanError:
    reason = error_line(error)[:_LONGEST_REASON]
    return PlanError(
        f"--model-name {model_name}: the planner fails: {type(error).__name__}: {reason}; train without it, with "
        "--no-auto-fit, and report this with the model's config.json"
    )


def _blank_tokenizer() -> PreTrainedTokenizerBase:
    return wrap_tokenizer(train_tokenizer((), vocab_size=_BLANK_VOCAB_SIZE))


def data_bytes(corpus: Corpus) -> int:
    """Host memory that a corpus takes while it is trained on: see :class:`TripleBatches`, and the held-out texts."""
    taken_bytes = order_bytes(corpus.triples)
    if isinstance(corpus.triples, IndexedTriples):
        taken_bytes += _COPIES_OF_A_RECORD * corpus.triples.largest_bytes
    if corpus.test:
        texts = chain(corpus.test.queries.values(), corpus.test.corpus.values())
        taken_bytes += sum(map(sys.getsizeof, texts))
    return taken_bytes


def _planned(request: PlanRequest) -> PlannedTraining:
    """What is planned. Runtime memory is read here, before plans and timings add to it."""
    make_encoder = planned_encoder(request.model_name)
    runtime_bytes = known_rss_bytes()
    if runtime_bytes is None:
        raise ConfigError("this system does not report the memory of a process, so nothing can be planned")
    return PlannedTraining(
        make_encoder=make_encoder,
        device_type=request.device_type,
        baseline_bytes=max(runtime_bytes + request.data_bytes, request.resident_bytes),
        budget_bytes=request.budget_bytes,
        active_share=request.active_share,
    )
