"""Sharded stores are read a whole shard at a time, where a block of cells holds it, and each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers import make_batches, values
from spoiling import stored
from zarr.storage import LocalStore

from mnndask import mnn_correct

BATCHES = make_batches((96, 64))  # whole shards of 32 cells, of which the file kind "shards" has chunks of 16
CELLS = 40 * 8


@pytest.fixture
def asked(monkeypatch):
    """How often files of matrices were asked for, and how many bytes of them were given."""
    times, given = Counter(), Counter()
    get = LocalStore.get

    async def counted(self, key, prototype, byte_range=None):
        value = await get(self, key, prototype, byte_range)
        if value is not None and key.startswith("X/c/"):
            times[self.root / key] += 1
            given[self.root / key] += len(value)
        return value

    monkeypatch.setattr(LocalStore, "get", counted)
    return times, given


def shards_of(paths):
    return {file for path in paths for file in Path(path, "X", "c").rglob("*") if file.is_file()}


@pytest.mark.parametrize("cells", [64, 32, 40])
def test_whole_shards_are_read_once_by_the_fit_and_once_by_the_result(tmp_path, asked, cells, monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", cells * CELLS)
    paths = [stored(tmp_path, X, "shards", name=name) for name, X in zip("ab", BATCHES, strict=True)]
    times, given = asked
    for path in paths:
        assert len(shards_of([path])) > 2
    result = mnn_correct(*paths, k=5)[0]
    assert times == dict.fromkeys(shards_of(paths), 1)
    np.testing.assert_allclose(values(result), mnn_correct(*BATCHES, k=5)[0], atol=1e-10)
    assert times == dict.fromkeys(shards_of(paths), 2)
    assert given == {file: 2 * file.stat().st_size for file in shards_of(paths)}


def test_of_shards_that_are_larger_than_a_block_no_part_is_read_twice(tmp_path, asked, monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 20 * CELLS)
    paths = [stored(tmp_path, X, "shards", name=name) for name, X in zip("ab", BATCHES, strict=True)]
    _, given = asked
    with zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0}):  # newer zarr reads small gaps, too
        mnn_correct(*paths, k=5)
    index = 16 * 4 + 4  # of a shard's four chunks, read again by each of the two blocks
    assert given == {file: file.stat().st_size + index for file in shards_of(paths)}
