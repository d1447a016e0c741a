"""A fit that does not fit in memory works on an object store where scratch is one, as in a folder."""

from __future__ import annotations

import gc

import dask.array as da
import numpy as np
import pytest
from s3_fixtures import BATCHES, MARKS

from mnndask import mnn_correct
from mnndask.errors import RemoteError, ScratchError

pytestmark = MARKS

FEW = BATCHES[0][:40, :20], BATCHES[1][:32, :20]
SMALL = {"k": 5, "sketch_size": None, "memory_limit": "62kB", "n_jobs": 1}


def lazily():
    return [da.from_array(X, chunks=(20, -1)) for X in FEW]


def test_a_fit_on_disk_and_its_result(s3, s3_server, tmp_path, caplog):
    result, pairs, _ = mnn_correct(*lazily(), **SMALL, scratch="s3://lab/scratch")
    assert "do not fit in" in caplog.text
    chunks = [path.split("/") for method, path in s3_server.asked if method == "PUT" and "/c/" in path]
    assert {"raw-1-0", "cells-0-1", "anchors-0", "vectors-0-0", "corrected-0-0"} <= {
        c[-4].rpartition("-")[0] for c in chunks
    }
    local, local_pairs, _ = mnn_correct(*lazily(), **SMALL, scratch=tmp_path)
    np.testing.assert_array_equal(result.compute(), local.compute())
    assert pairs[1].equals(local_pairs[1])
    assert s3.find("lab/scratch")
    del result
    gc.collect()
    s3.invalidate_cache()
    assert not s3.find("lab/scratch")


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [("PUT", ScratchError, "cannot be written: Access"), ("GET", RemoteError, "is denied: Access")],
)
def test_access_that_is_denied_while_it_works(s3, s3_server, asked, error, said):
    denied = (403, "AccessDenied")
    s3_server.rule = lambda method, path: (
        denied if method == asked and "/anchors-0-" in path and "/c/" in path else None
    )
    with pytest.raises(error, match=rf"s3://lab/scratch/mnndask-\w+ {said}"):
        mnn_correct(*lazily(), **SMALL, scratch="s3://lab/scratch")
    assert s3_server.injected
    s3.invalidate_cache()
    assert not s3.find("lab/scratch")
