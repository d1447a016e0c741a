"""Links that form a loop lead nowhere: an input or an element at their end is said to be unreachable."""

from __future__ import annotations

import shutil

import pytest
from helpers import as_anndata, told
from spoiling import A, B

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputNotFoundError, InputReadError, MNNError


@pytest.fixture
def loop(tmp_path):
    """A path that links to another, which links back."""
    first, second = tmp_path / "loop.zarr", tmp_path / "pool.zarr"
    first.symlink_to(second)
    second.symlink_to(first)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        first.stat()
    return first


@pytest.fixture
def sound(tmp_path):
    as_anndata(A).write_zarr(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("inside", ["", "/part.zarr"])
def test_an_input(inside, loop, sound):
    with pytest.raises(InputNotFoundError, match="cannot be reached: Too many levels of symbolic") as caught:
        mnn_correct(sound, f"{loop}{inside}", k=5)
    assert "ls -l" in str(caught.value).splitlines()[1]


@pytest.mark.parametrize(
    "words",
    [
        ("correct", "LOOP", "a.zarr", "-o", "out.zarr"),
        ("correct", "a.zarr", "LOOP", "-o", "out.zarr"),
        ("correct", "a.zarr", "a.zarr", "--restrict", "LOOP", "-o", "LOOP"),
        ("correct", "a.zarr", "a.zarr", "-o", "LOOP/out.zarr"),
        ("correct", "a.zarr", "a.zarr", "--scratch", "LOOP", "-o", "out.zarr"),
        ("correct", "a.zarr", "a.zarr", "--var-subset", "LOOP", "-o", "out.zarr"),
        ("info", "LOOP"),
        ("report", "LOOP"),
    ],
    ids=" ".join,
)
def test_the_command_says_it_in_one_line(words, loop, sound, monkeypatch, capsys):
    monkeypatch.chdir(sound.parent)
    named = ["--batch-categories", "a,b"] if words[0] == "correct" else []
    with pytest.raises(SystemExit) as end:
        main([*(word.replace("LOOP", str(loop)) for word in words), *named])
    assert end.value.code == 2
    [line] = told(capsys.readouterr().err)
    assert line.startswith("mnndask: ")
    assert str(loop) in line or words[-1] == "LOOP"
    assert {path.name for path in sound.parent.iterdir()} <= {"a.zarr", "loop.zarr", "pool.zarr"}


@pytest.mark.parametrize("part", ["X", "obs", "obs/_index", "layers/twice"])
def test_an_element_of_a_store(part, sound, loop):
    shutil.rmtree(sound / part)
    (sound / part).symlink_to(loop)
    with pytest.raises(MNNError) as caught:
        mnn_correct(sound, sound, k=5)
    assert str(sound) in str(caught.value)


def test_a_file_of_another_name_is_too_long(sound):
    with pytest.raises(InputNotFoundError, match="File name too long"):
        mnn_correct(sound, sound.with_name("x" * 300), k=5)


def test_an_opened_file_whose_link_now_is_a_loop(tmp_path, loop):
    import anndata as ad

    as_anndata(B).write_h5ad(tmp_path / "b.h5ad")
    link = tmp_path / "link.h5ad"
    link.symlink_to(tmp_path / "b.h5ad")
    opened = ad.read_h5ad(link, backed="r")
    link.unlink()
    link.symlink_to(loop)
    with pytest.raises((InputNotFoundError, InputReadError), match=r"link\.h5ad"):
        mnn_correct(opened, opened, k=5)
