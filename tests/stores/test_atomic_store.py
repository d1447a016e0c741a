"""The store of an unfinished output: every write passes through it, and it shards nothing unasked."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from helpers import as_anndata
from zarr.storage import LocalStore

from mnndask.io.anndata_compat import writing_elements
from mnndask.io.output import root_last
from mnndask.stores.atomic_store import AtomicStore

FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"  # writes without an event loop, where a store allows it


@pytest.mark.skipif(not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"), reason="not in this zarr")
def test_nothing_is_written_past_it(tmp_path):
    store = AtomicStore(LocalStore(tmp_path))
    with zarr.config.set({"codec_pipeline.path": FUSED}):
        array = zarr.create_array(store, name="a", shape=4, dtype="f8", chunks=2)
        store.abandoned = True
        with pytest.raises(OSError, match="was abandoned"):
            array[:] = 1.0
    assert not list(tmp_path.glob("a/c/*"))


def test_anndata_shards_nothing_by_itself(tmp_path):
    adata = as_anndata(np.ones((200, 40)))
    adata.obs["depth"] = pd.array(adata.obs["depth"], dtype="Int64")
    with root_last(LocalStore(tmp_path), "here") as root, writing_elements():
        write_elem(root, "/", adata)
    arrays = [part for _, part in zarr.open_group(tmp_path).members(None) if isinstance(part, zarr.Array)]
    assert len(arrays) > 5
    assert {array.shards for array in arrays} == {None}
    assert ad.read_zarr(tmp_path).shape == (200, 40)
