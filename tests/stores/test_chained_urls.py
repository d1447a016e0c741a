"""Places inside of archives and behind caches, named as fsspec names them: ``zip://a.zarr::/path/all.zip``."""

from __future__ import annotations

import pickle
import shutil

import anndata as ad
import forked
import numpy as np
import pytest
from helpers import told, values
from spoiling import A, B, chunk_files, stored

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError, InputNotFoundError, InputReadError
from mnndask.io.resume import ResumeRecord
from mnndask.stores.location import Location

pytestmark = pytest.mark.usefixtures("short_record")


@pytest.fixture(scope="module")
def expected():
    return mnn_correct(A, B, k=5)[0]


def archived(folder, kind, layout):
    """Two stores in an archive each, and both in one."""
    (folder / "stores").mkdir()
    for name, X in (("a", A), ("b", B)):
        path = stored(folder / "stores", X, kind, layout, name)
        shutil.make_archive(str(folder / f"{name}.zarr"), "zip", path)
    shutil.make_archive(str(folder / "both"), "zip", folder / "stores")
    return folder


@pytest.mark.parametrize(("kind", "layout"), [("zarr2", "csr"), ("zarr3", "dense"), ("shards", "dense")])
@pytest.mark.parametrize(
    "form",
    [
        "zip::{folder}/{name}.zarr.zip",
        "zip://{name}.zarr::{folder}/both.zip",
        "simplecache::file://{folder}/stores/{name}.zarr",
    ],
)
def test_stores_in_archives_are_read(form, kind, layout, tmp_path, expected):
    folder = archived(tmp_path, kind, layout)
    result = mnn_correct(*(form.format(folder=folder, name=name) for name in "ab"), k=5)[0]
    np.testing.assert_allclose(values(result), expected, atol=1e-10)
    np.testing.assert_array_equal(result.obs["depth"], [*range(60), *range(50)])


def test_relative_paths_hold_wherever_the_result_is_computed(tmp_path, expected, monkeypatch):
    archived(tmp_path, "zarr3", "csr")
    monkeypatch.chdir(tmp_path)
    result = mnn_correct("zip::a.zarr.zip", "zip://b.zarr::both.zip", k=5)[0]
    (tmp_path / "pickled").write_bytes(pickle.dumps(result.X))
    code = (
        "import pickle, sys, numpy as np\n"
        "X = pickle.load(open(sys.argv[1], 'rb')).compute(scheduler='sync')\n"
        "np.save(sys.argv[2], X)"
    )
    forked.run(code, tmp_path / "pickled", tmp_path / "out.npy", cwd="/")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-10)


def test_the_command_names_batches_after_them(tmp_path, expected, capsys, monkeypatch):
    archived(tmp_path, "zarr3", "csr")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["correct", "zip::a.zarr.zip", "zip://b.zarr::both.zip", "-k", "5", "-o", "out.zarr"])
    assert (end.value.code, told(capsys.readouterr().err)) == (0, [])
    corrected = ad.read_zarr("out.zarr")
    assert list(corrected.obs["batch"].cat.categories) == ["a", "b"]
    np.testing.assert_allclose(corrected.X, expected, atol=1e-10)


def test_what_is_wrong_with_an_archive_is_said(tmp_path):
    folder = archived(tmp_path, "zarr3", "dense")
    (folder / "not.zip").write_text("no archive")
    for url, error, said in [
        ("zip::{}/nowhere.zip", InputNotFoundError, "nowhere.zip"),
        ("zip://c.zarr::{}/both.zip", InputNotFoundError, "does not exist"),
        ("zip::{}/both.zip", InputError, "is not a zarr group"),
        ("zip::{}/not.zip", InputReadError, "not.zip.* is damaged: it cannot be read .*not a zip file"),
    ]:
        with pytest.raises(error, match=said):
            mnn_correct(*[url.format(folder)] * 2, k=5)
    chunk_files(folder / "stores" / "b.zarr")[5].unlink()
    archived_again = shutil.make_archive(str(folder / "lost"), "zip", folder / "stores" / "b.zarr")
    with pytest.raises(InputError, match="lacks 1 of the 16 chunks of X"):
        mnn_correct(*[f"zip::{archived_again}"] * 2, k=5)


def test_an_unfinished_run_knows_what_was_in_an_archive(tmp_path):
    folder = archived(tmp_path, "zarr3", "dense")
    place = Location.of(f"zip::{folder}/a.zarr.zip")
    before = ResumeRecord.of([place], {})
    assert ResumeRecord.of([place], {}) == before
    shutil.copy(folder / "b.zarr.zip", folder / "a.zarr.zip")
    assert ResumeRecord.of([place], {}) != before


@pytest.mark.parametrize(
    ("given", "is_url", "stem", "child"),
    [
        ("zip::/p/a.zarr.zip", True, "a", "zip://n::/p/a.zarr.zip"),
        ("zip://a.zarr::/p/b.zip", True, "a", "zip://a.zarr/n::/p/b.zip"),
        ("zip::s3://b/a.zip", True, "a", "zip://n::s3://b/a.zip"),
        ("simplecache::http://h/a.zarr", True, "a", "simplecache::http://h/a.zarr/n"),
        ("s3://b/a.zarr/", True, "a", "s3://b/a.zarr/n"),
        ("odd::name/a.zarr", False, "a", "odd::name/a.zarr/n"),
    ],
)
def test_names_of_places(given, is_url, stem, child):
    place = Location.of(given)
    assert (place.is_url, place.pure.stem, place.child("n").given) == (is_url, stem, child)
