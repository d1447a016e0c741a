"""Files of strangers run nothing: a store that says that its values are pickles is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from anndata.io import write_elem
from helpers import as_anndata, zarr_store

from mnndask import mnn_correct
from mnndask.errors import InputReadError


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["X", "obs/n", "obs/_index"])
def test_a_pickle_in_a_store_is_refused_and_does_not_run(tmp_path, name):
    cells = as_anndata(np.random.default_rng(0).random((30, 10), dtype=np.float32))
    cells.obs["n"] = np.arange(30)
    for batch in "ab":
        with zarr_store(tmp_path / f"{batch}.zarr", 2) as root:
            write_elem(root, "/", cells)
    array = tmp_path / "b.zarr" / name
    if not (array / ".zarray").exists():  # texts with a mask, as newer anndata writes them
        array = array / "values"
    metadata = json.loads((array / ".zarray").read_text())
    metadata |= {"dtype": "|O", "compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    (array / ".zarray").write_text(json.dumps(metadata | {"fill_value": None}))
    for chunk in array.iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (tmp_path / "b.zarr" / ".zmetadata").unlink(missing_ok=True)
    with pytest.raises(InputReadError, match=r"b\.zarr"):
        mnn_correct(tmp_path / "a.zarr", tmp_path / "b.zarr", k=3)
    assert not (tmp_path / "sprung").exists()
