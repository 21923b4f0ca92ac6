"""Which queries of a batch a process encodes, if several train together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splade_bench.distributed.vocabulary import even_parts, even_sizes


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one of ``processes``: consecutive queries of a batch that :meth:`order` has put in order."""

    rank: int = 0
    processes: int = 1

    def order(self, sizes: Sequence[int]) -> list[int]:
        """The places of a batch's queries in an order in which all shares take about as long: each waits for all.

        It is the same for all processes. One process keeps the order.

        Args:
            sizes: of each query with its documents.
        """
        if self.processes == 1:
            return [*range(len(sizes))]
        room = even_sizes(len(sizes), self.processes)
        shares: list[list[int]] = [[] for _ in room]
        totals = [0] * self.processes
        for place in sorted(range(len(sizes)), key=lambda place: sizes[place], reverse=True):
            open_ranks = [rank for rank in range(self.processes) if len(shares[rank]) < room[rank]]
            rank = min(open_ranks, key=lambda rank: totals[rank])
            shares[rank].append(place)
            totals[rank] += sizes[place]
        return [place for share in shares for place in share]

    def of(self, queries: int) -> slice:
        """This process's part of so many queries. It is empty if there are fewer queries than processes."""
        own = even_parts(queries, self.processes)[self.rank]
        return slice(own.start, own.stop)


WHOLE = Share()
