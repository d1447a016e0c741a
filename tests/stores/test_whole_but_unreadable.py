"""Stores that are whole and cannot be read here: what is missing is named before the fit, as no damage."""

from __future__ import annotations

import json
import subprocess
import sys

import anndata as ad
import forked
import h5py
import numpy as np
import pytest
from spoiling import A, B, stored

from mnndask import mnn_correct
from mnndask.errors import InputNotFoundError, InputReadError
from mnndask.io.anndata_store import open_lazily, read_column, read_record
from mnndask.stores.location import Location

UNKNOWN = 32099  # a number that no filter has


def refused(*inputs, said, remedy):
    with pytest.raises(InputReadError) as caught:
        mnn_correct(*inputs, k=5)
    first, second = str(caught.value).split("\n")
    assert said in first
    assert remedy in second
    assert "damaged" not in first
    assert "again" not in second


def compressed(path, name):
    """Give an array of a file a filter that is not at hand, as if the file came from elsewhere."""
    with h5py.File(path, "a") as file:
        old = file[name]
        attributes, values_ = dict(old.attrs), old[()]
        del file[name]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(values_.shape)
        properties.set_filter(UNKNOWN, h5py.h5z.FLAG_OPTIONAL)
        group, _, leaf = f"/{name}".rpartition("/")
        space = h5py.h5s.create_simple(values_.shape)
        kind = h5py.h5t.py_create(values_.dtype, logical=True)
        made = h5py.h5d.create(file[group or "/"].id, leaf.encode(), kind, space, properties)
        made.write_direct_chunk((0,) * values_.ndim, values_.tobytes())
        h5py.Dataset(made).attrs.update(attributes)


@pytest.mark.parametrize("part", ["X/data", "obs/depth", "layers/twice/indices", "obsm/X_scVI"])
def test_a_filter_that_is_not_installed_is_named(part, tmp_path):
    paths = [stored(tmp_path, X, "h5ad", "csr", name) for name, X in (("a", A), ("b", B))]
    compressed(paths[1], part)
    said = f"b.h5ad) cannot be read: {part} is compressed with the HDF5 filter {UNKNOWN}"
    refused(*paths, said=said, remedy="pip install hdf5plugin")


def test_a_filter_that_is_not_installed_is_named_of_a_backed_object(tmp_path):
    paths = [stored(tmp_path, X, "h5ad", "dense", name) for name, X in (("a", A), ("b", B))]
    compressed(paths[1], "X")
    backed = [ad.read_h5ad(path, backed="r") for path in paths]
    refused(*backed, said=f"X is compressed with the HDF5 filter {UNKNOWN}", remedy="pip install hdf5plugin")


def test_a_column_is_read_though_another_needs_a_filter(tmp_path):
    path = stored(tmp_path, A, "h5ad", "csr", "a")
    compressed(path, "X/data")
    assert list(read_column(Location.of(path), "a", "depth")) == list(range(60))
    assert read_record(Location.of(path))[2] == A.shape


def test_filters_of_hdf5plugin_are_found_where_it_is_installed(tmp_path):
    """Written and read by processes of their own: the filters are known to a process until it ends."""
    pytest.importorskip("hdf5plugin")
    paths = [str(stored(tmp_path, X, "h5ad", "csr", name)) for name, X in (("a", A), ("b", B))]
    write = (
        f"import hdf5plugin, anndata as ad\n"
        f"for p in {paths}: ad.read_h5ad(p).write_h5ad(p, compression=hdf5plugin.FILTERS['zstd'])"
    )
    read = (
        f"import sys, dask, numpy as np, mnndask\n"
        f"result = mnndask.mnn_correct(*{paths}, k=5)[0]\n"
        f"with dask.config.set(scheduler='processes', num_workers=1): X = result.X.compute()\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, X)"
    )
    for code in (write, read):
        forked.run(code)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), mnn_correct(A, B, k=5)[0], atol=1e-10)


# ---------------------------------------------------------------- codecs of zarr


def with_codec(path, part, version):
    """Name a codec that nobody has in the metadata of an array."""
    document = path / part / (".zarray" if version == 2 else "zarr.json")
    metadata = json.loads(document.read_text())
    if version == 2:
        metadata["compressor"] = {"id": "nobodys", "level": 3}
    else:
        metadata["codecs"][-1] = {"name": "nobodys", "configuration": {}}
    document.write_text(json.dumps(metadata))
    return metadata


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("part", ["X", "obs/depth", "layers/twice"])
def test_a_codec_that_is_not_installed_is_named(part, version, consolidated, tmp_path):
    path = stored(tmp_path, A, f"zarr{version}", "dense", "a")
    metadata = with_codec(path, part, version)
    root = path / (".zmetadata" if version == 2 else "zarr.json")
    if consolidated:
        known = json.loads(root.read_text())
        inside = known["metadata"] if version == 2 else known["consolidated_metadata"]["metadata"]
        inside[f"{part}/.zarray" if version == 2 else part] = metadata
        root.write_text(json.dumps(known))
    elif version == 2:
        root.unlink()
    else:
        root.write_text(json.dumps(json.loads(root.read_text()) | {"consolidated_metadata": None}))
    refused(path, path, said="the codec 'nobodys'", remedy="Install the Python package")


# ---------------------------------------------------------------- locks


def test_a_file_that_another_process_writes_is_said_to_be_open_there(tmp_path):
    path = stored(tmp_path, A, "h5ad", "dense", "a")
    code = (
        f"import h5py, sys; file = h5py.File({str(path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline().strip() == b"open"
        refused(
            path,
            path,
            said="a.h5ad) is open for writing in another process",
            remedy="HDF5_USE_FILE_LOCKING=FALSE",
        )
        writer.stdin.close()
    assert open_lazily(Location.of(path), None, "a").shape == A.shape


def test_a_file_that_was_removed_since_it_was_opened_is_missed_before_the_fit(tmp_path):
    backed = [
        ad.read_h5ad(stored(tmp_path, X, "h5ad", "csr", n), backed="r") for n, X in (("a", A), ("b", B))
    ]
    (tmp_path / "b.h5ad").unlink()
    message = r"batch 1 .* is read lazily from .*b.h5ad, which no longer exists"
    with pytest.raises(InputNotFoundError, match=message):
        mnn_correct(*backed, k=5)
