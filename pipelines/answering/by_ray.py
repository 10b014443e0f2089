"""A list's rows answered by the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import tee

from pipelines.answering.classify import Answering, answers
from pipelines.lists.formats import Record
from pipelines.lists.rows import Row
from retrieval.predictions import REASON
from retrieval.ray_systems import require_shared, through_workers
from retrieval.system import System


def answers_by_ray(
    address: str, system: System, todo: Iterable[list[Row]], how: Answering
) -> Generator[list[Record], None, None]:
    """As :func:`pipelines.answering.classify.answers`, by machines that hold the same run.

    Args:
        address: of the cluster, as of :func:`retrieval.ray_systems.through_workers`.
        system, todo, how: as of :func:`pipelines.answering.classify.answers`. Requests at a time
            are shared out among the machines.

    Raises:
        ConfigError, RunError: as of :func:`retrieval.ray_systems.through_workers`; or a machine
            does not see a photograph that this one does.
    """
    first, second = tee(todo)
    through = partial(_answers, how)
    with closing(
        through_workers(address, system, through, first, how.many, lambda row: row.id)
    ) as stream:
        for records, rows in zip(stream, second, strict=True):
            require_shared([row.source for row in rows], [record[REASON] for record in records])
            yield records


def _answers(
    how: Answering, system: System, todo: Iterable[Sequence[Row]], workers: int
) -> Iterator[list[Record]]:
    return answers(system, todo, replace(how, fetch=how.fetch.shared_by(workers)))
