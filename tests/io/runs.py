"""What tests of stopped and continued runs share."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anndata as ad
import fsspec
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches

from mnndask.io.anndata_writer import write_annotations, write_matrix
from mnndask.io.begun_matrix import Grid
from mnndask.io.output import check_output, writing
from mnndask.io.resume import ResumeRecord
from mnndask.stores.location import Location
from mnndask.stores.output_target import target_of

N_CHUNKS = 11  # of ten cells
CHUNK_BYTES = 10 * 40 * 8
MEMBERS = {"X", "obs", "var", "obsm", "obsp", "varm", "varp", "layers", "uns"}
RUN = ResumeRecord({"version": "1", "inputs": [], "parameters": {}})


def chunks(folder):
    """When each chunk of X was written, and as which file."""
    found = (folder / "X" / "c").glob("*/*")
    return {file.parent.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in found}


def contents(folder):
    """What is in all files of a folder."""
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@contextmanager
def before_key(stage, then):
    """Call `then` before the keys are written for which `stage` is true, given the number of chunks."""
    writes, done = [], []

    def hooked(original):
        async def set_(self, key, value, *args):
            writes.append(key)
            if stage(key, len([k for k in writes if k.startswith("X/c/")])):
                done.append(key)
                then(key)
            await original(self, key, value, *args)

        return set_

    with pytest.MonkeyPatch.context() as patch:
        for kind in (zarr.storage.LocalStore, zarr.storage.FsspecStore):
            patch.setattr(kind, "set", hooked(kind.set))
        yield
    assert done


def sample(seed=0):
    """An AnnData with all kinds of elements."""
    adata = as_anndata(make_batches((110,), seed=seed)[0])
    adata.uns["note"] = {"seed": seed}
    return adata


def write(adata, url, *, overwrite=False, resume=False):
    """Write as the command does, without the fit: the record of the run says that it is always the same."""
    target = target_of(Location.of(url))
    check_output(target, [], overwrite=overwrite, resume=RUN if resume else None)
    with writing(target, overwrite=overwrite, run=RUN, resume=resume) as root:
        write_annotations(adata, root, 1, remote=target.remote)
        write_matrix(adata.X, root, 1, Grid(CHUNK_BYTES, target.remote))


@dataclass
class Place:
    """Where an output is written, on a disk or in an object store, and what is there."""

    url: str
    filesystem: Any

    @property
    def growing(self):
        """Where it is before it is complete."""
        return f"{self.url}.partial" if self.is_local else self.url

    @property
    def is_local(self):
        return "memory" not in self.url

    def remove(self, name, *, of=None):
        [path, *_] = self.filesystem.glob(f"{of or self.growing}/{name}".rstrip("/"))
        self.filesystem.rm(path, recursive=True)
        assert not self.filesystem.exists(path)

    def contents(self, name=""):
        found = self.filesystem.find(f"{self.url}{name}")
        return {path: self.filesystem.cat_file(path) for path in found}

    def beside(self):
        """Names of what is there, besides the output."""
        folder = self.url.rpartition("/")[0]
        names = [path.rpartition("/")[2] for path in self.filesystem.ls(folder, detail=False)]
        return sorted(name for name in names if name.startswith("out.zarr."))

    def check(self, adata, name=""):
        """The output is whole and equals `adata`, and nothing else is left."""
        assert self.filesystem.exists(f"{self.url}{name}/zarr.json")
        store = Location.of(f"{self.url}{name}").store(read_only=True)
        found = ad.read_zarr(store)
        assert found.obs.equals(adata.obs)
        assert found.var.equals(adata.var)
        np.testing.assert_array_equal(found.X, adata.X)
        np.testing.assert_array_equal(found.layers["twice"], adata.layers["twice"])
        np.testing.assert_array_equal(found.obsm["X_scVI"], adata.obsm["X_scVI"])
        assert found.uns["note"] == adata.uns["note"]
        assert set(zarr.open_group(store, mode="r")) - {"raw"} == MEMBERS
        if not name:
            assert self.beside() == []

    def opens(self, name=""):
        """Whether anything opens there."""
        try:
            zarr.open_group(Location.of(f"{self.url}{name}").store(read_only=True), mode="r")
        except FileNotFoundError:
            return False
        return True


@pytest.fixture
def disk(tmp_path):
    return Place(str(tmp_path / "out.zarr"), fsspec.filesystem("file"))


@pytest.fixture
def bucket():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    filesystem.mkdir("/bucket")
    return Place("memory://bucket/out.zarr", filesystem)


@pytest.fixture(params=["disk", "bucket"])
def place(request):
    return request.getfixturevalue(request.param)
