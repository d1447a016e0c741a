"""A function over the blocks of lazy matrices, as tasks of one graph.

dask culls and merges graphs layer by layer. A layer for each block takes a time that grows with the square of
their number: two minutes for 24,000 blocks with nothing to compute.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dask.array as da
import numpy as np
from dask.base import compute_as_if_collection
from dask.delayed import Delayed

from mnndask._threads import single_threaded_blas
from mnndask._typing import Rows
from mnndask.engine.tasks import threads, watched
from mnndask.engine.waiting import waiting_for_workers

T = TypeVar("T")


@dataclass(frozen=True)
class BlockTasks:
    """Tasks that have not been computed.

    Parameters
    ----------
    graph
        The tasks and all that they depend on.
    keys
        Their keys, in the order of their results.
    """

    graph: Mapping[Any, Any]
    keys: Sequence[Any]


@dataclass(frozen=True)
class _Arguments:
    """Arguments of one task. dask does not look inside for keys of other tasks."""

    values: tuple[Any, ...]


def over_blocks(
    stage: str,
    function: Callable[..., Any],
    X: da.Array,
    arguments: Mapping[int, tuple[Any, ...]],
    batch: int | None = None,
) -> BlockTasks:
    """Return tasks that call a function on blocks of a matrix.

    Parameters
    ----------
    stage
        Name of the tasks on the dashboard, without ``mnn-``.
    function
        Called with a block and its arguments. It is in the graph once, with all data that it refers to.
    X
        Matrix chunked along cells only.
    arguments
        Further arguments of the call, by number of the block. Other blocks are not read.
    batch
        Index of the batch, shown in the names of the tasks; None if the blocks may be of several.
    """
    blocks = {i: (X.name, i, 0) for i in arguments}
    graph = dict(X.__dask_optimize__(X.__dask_graph__(), list(blocks.values())))
    return _tasks(stage, function, graph, {i: (blocks[i], own) for i, own in arguments.items()}, batch)


def rows_of_blocks(X: da.Array, rows: Rows | None) -> dict[int, tuple[Rows | None]]:
    """Return which of its rows are wanted of each block that has any, by its number; None for all.

    Parameters
    ----------
    X
        Matrix chunked along cells only.
    rows
        Wanted rows of the matrix, ascending; None for all.
    """
    if rows is None:
        return {i: (None,) for i in range(X.numblocks[0])}
    ends = np.cumsum((0, *X.chunks[0]))
    cuts = np.searchsorted(rows, ends)
    wanted = np.flatnonzero(np.diff(cuts))
    return {int(i): (rows[cuts[i] : cuts[i + 1]] - ends[i],) for i in wanted}


def over_arguments(
    stage: str, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> BlockTasks:
    """Return tasks that call a function, each with arguments of its own and on no block."""
    return _tasks(stage, function, {}, {i: (None, own) for i, own in enumerate(arguments)}, None)


def _tasks(
    stage: str,
    function: Callable[..., Any],
    graph: dict[Any, Any],
    calls: Mapping[int, tuple[Any, tuple[Any, ...]]],
    batch: int | None,
) -> BlockTasks:
    token = uuid.uuid4().hex
    name, shared = f"mnn-{stage}-{'' if batch is None else f'batch{batch}-'}{token}", f"mnn-function-{token}"
    graph[shared] = function
    for i, (block, own) in calls.items():
        graph[name, i] = (_call, shared, _Arguments(own), *(() if block is None else (block,)))
    return BlockTasks(graph, [(name, i) for i in calls])


def _call(function: Callable[..., Any], arguments: _Arguments, *block: Any) -> Any:
    with single_threaded_blas():
        return function(*block, *arguments.values)


FAN_IN = 8  # results that one task adds


def added(stage: str, add: Callable[[list[Any]], Any], tasks: BlockTasks) -> BlockTasks:
    """Return one task for the sum of all results, which are added in a tree, a few at a time."""
    graph, keys = dict(tasks.graph), list(tasks.keys)
    while len(keys) > 1:
        name = f"mnn-{stage}-{uuid.uuid4().hex}"
        parts = [keys[i : i + FAN_IN] for i in range(0, len(keys), FAN_IN)]
        graph.update({(name, i): (add, part) for i, part in enumerate(parts)})
        keys = [(name, i) for i in range(len(parts))]
    return BlockTasks(graph, keys)


def compute_each(tasks: Sequence[BlockTasks], n_jobs: int | None, counts: float) -> list[list[Any]]:
    """Compute tasks together. Return the results of each.

    On a cluster they advance the current progress line, by `counts` in total.
    """
    graph: dict[Any, Any] = {}
    for part in tasks:
        graph.update(part.graph)
    keys = [list(part.keys) for part in tasks]
    if not any(keys):
        return [[] for _ in tasks]
    with single_threaded_blas(), watched([key for own in keys for key in own], counts), waiting_for_workers():
        out = compute_as_if_collection(Delayed, graph, keys, **threads(n_jobs))
    return [list(own) for own in out]


def map_stage(
    stage: str,
    function: Callable[[slice], T],
    blocks: Sequence[slice],
    n_jobs: int | None,
    counts: float = 0,
) -> list[T]:
    """Call a function on every block, each in its own task; results in order. Triggers one compute.

    On a cluster the tasks advance the current progress line, by `counts` in total.
    """
    return compute_each([over_arguments(stage, function, [(block,) for block in blocks])], n_jobs, counts)[0]
