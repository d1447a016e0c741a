"""Consolidated stores on web servers that list no folders, whatever they answer where nothing is."""

from __future__ import annotations

import json
import pickle
from contextlib import ExitStack
from functools import cache

import forked
import numpy as np
import pytest
import zarr
from helpers import told, values
from spoiling import A, B, chunk_files, lose, stored
from web_server import serving

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError, InputNotFoundError, InputReadError, RemoteError
from mnndask.io.resume import ResumeRecord
from mnndask.stores.location import Location

pytest.importorskip("aiohttp")

pytestmark = pytest.mark.usefixtures("short_record")
ANSWERS = ("403", "404", "200")


@pytest.fixture
def served(tmp_path):
    """Function that serves a folder in one of these ways, and gives its URL."""
    with ExitStack() as stack:
        yield cache(lambda how: stack.enter_context(serving(tmp_path, how)))


@pytest.fixture(scope="module")
def expected():
    return mnn_correct(A, B, k=5)[0]


@pytest.mark.parametrize("how", [*ANSWERS, "lists"])
@pytest.mark.parametrize("kind", ["zarr2", "shards"])
def test_consolidated_stores_are_read(kind, how, tmp_path, served, expected):
    layout = "dense" if kind == "shards" else "csr"
    for name, X in (("a", A), ("b", B)):
        stored(tmp_path, X, kind, layout, name)
    result = mnn_correct(*(f"{served(how)}/{name}.zarr" for name in "ab"), k=5)[0]
    np.testing.assert_allclose(values(result), expected, atol=1e-10)
    np.testing.assert_array_equal(result.obs["depth"], [*range(60), *range(50)])


def test_another_process_computes_the_result(tmp_path, served, expected):
    for name, X in (("a", A), ("b", B)):
        stored(tmp_path, X, "zarr3", "dense", name)
    result = mnn_correct(*(f"{served('403')}/{name}.zarr" for name in "ab"), k=5)[0]
    (tmp_path / "pickled").write_bytes(pickle.dumps(result.X))
    code = (
        "import pickle, sys, numpy as np\n"
        "X = pickle.load(open(sys.argv[1], 'rb')).compute(scheduler='sync')\n"
        "np.save(sys.argv[2], X)"
    )
    forked.run(code, tmp_path / "pickled", tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-10)


@pytest.mark.parametrize("how", ANSWERS)
def test_chunks_that_writers_left_out_are_zeros_and_others_are_missed(how, tmp_path, served):
    X = B.copy()
    X[:, 10:20] = 0
    stored(tmp_path, A, "zarr3", name="a")
    path = stored(tmp_path, X, "zarr3", name="b")
    urls = [f"{served(how)}/{name}.zarr" for name in "ab"]
    with pytest.warns(UserWarning, match=r"b.zarr\) lacks 4 of the 16 chunks of X, in all rows"):
        result = mnn_correct(*urls, k=5)[0]
    np.testing.assert_allclose(values(result), mnn_correct(A, X, k=5)[0], atol=1e-10)
    lose(path, "X")
    with pytest.raises(InputReadError, match=r"b.zarr\) lacks the chunk X/c/3/3"):
        values(result)
    with pytest.raises(InputError, match=r"b.zarr\) lacks 5 of the 16 chunks of X"):
        mnn_correct(*urls, k=5)


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("kind", ["zarr2", "zarr3"])
def test_without_consolidated_metadata_the_remedy_is_told(how, kind, tmp_path, served):
    path = stored(tmp_path, A, kind, name="a")
    unconsolidated(path)
    with pytest.raises(InputError, match="lists no folders, and has no consolidated metadata") as caught:
        mnn_correct(*[f"{served(how)}/a.zarr"] * 2, k=5)
    assert "zarr.consolidate_metadata" in str(caught.value).splitlines()[1]


def unconsolidated(path):
    if (path / ".zmetadata").exists():
        (path / ".zmetadata").unlink()
        return
    document = json.loads((path / "zarr.json").read_text())
    del document["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(document))


def test_places_where_nothing_is(tmp_path, served):
    with pytest.raises(InputNotFoundError, match=r"nowhere.zarr\) does not exist"):
        mnn_correct(*[f"{served('404')}/nowhere.zarr"] * 2, k=5)
    with pytest.raises(RemoteError, match=r"Access to .*nowhere.zarr is denied: the server answers 403"):
        mnn_correct(*[f"{served('403')}/nowhere.zarr"] * 2, k=5)
    with pytest.raises(InputError, match=r"nowhere.zarr\) is not a zarr group"):
        mnn_correct(*[f"{served('200')}/nowhere.zarr"] * 2, k=5)
    with pytest.raises(RemoteError, match="cannot be reached"):
        mnn_correct(*["http://127.0.0.1:9/a.zarr"] * 2, k=5)


@pytest.mark.parametrize("how", ["404", "lists"])
def test_hdf5_on_a_web_server_stays_refused(how, tmp_path, served):
    stored(tmp_path, A, "h5ad", name="a")
    with pytest.raises(InputError, match="is an HDF5 file at a URL, which cannot be read in parts"):
        mnn_correct(*[f"{served(how)}/a.h5ad"] * 2, k=5)


@pytest.mark.parametrize("how", [*ANSWERS, "lists"])
def test_an_unfinished_run_knows_its_inputs(how, tmp_path, served):
    path = stored(tmp_path, A, "zarr3", name="a")
    url = Location.of(f"{served(how)}/a.zarr")
    before = ResumeRecord.of([url], {})
    assert ResumeRecord.of([url], {}) == before
    zarr.open_group(path)["obs"].attrs["changed"] = True
    zarr.consolidate_metadata(path)
    assert ResumeRecord.of([url], {}) != before


def test_the_command_reads_them(tmp_path, served, expected, capsys):
    for name, X in (("a", A), ("b", B)):
        stored(tmp_path, X, "zarr2", "csr", name)
    inputs = [f"{served('404')}/{name}.zarr" for name in "ab"]
    with pytest.raises(SystemExit) as end:
        main(["correct", *inputs, "-k", "5", "-o", str(tmp_path / "out.zarr")])
    assert (end.value.code, told(capsys.readouterr().err)) == (0, [])
    X = zarr.open_group(tmp_path / "out.zarr")["X"]
    np.testing.assert_allclose(X[:], expected, atol=1e-10)
    assert chunk_files(tmp_path / "out.zarr")
