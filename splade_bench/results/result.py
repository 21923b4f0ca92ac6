"""What every line of a results file has: the conditions of its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import msgspec

from splade_bench.json_records import encode_line

SCHEMA_VERSION = 1
# What torch can be asked for, and a float can hold. The gate has a narrower bound.
Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A line of a results file, and the conditions of its figures."""

    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    source_tree: str | None = None
    """The source tree fingerprint: a hash of the package's own files."""
    started_at: str | None = None
    session: str | None = None
    """The run of pytest that measured it; results of an earlier run in the same file have another session."""
    shard: str | None = None
    """The part of a sweep that the session measured, such as 2/8; None: all of it."""
    test_id: str | None = None
    """pytest's node id of the test that asked for it."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """One line of strict JSON: a number that is not finite becomes null."""
        return encode_line(self)
