"""Names that would act on a terminal, or pass for lines of the command, are printed escaped everywhere."""

import io
import logging
import re
import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches

from mnndask import MNNCorrector
from mnndask._text import printable
from mnndask.cli.main import main
from mnndask.errors import MNNError
from mnndask.pl import embedding

NAME = "Zürich\x1b[2J\x1b]0;t\x07\r\nmnndask: forged\x9b31m\x85\u202e\u2066\u2028\u2029心臓"
UNDECODABLE = "\udcff"  # as of a file name
A, B = make_batches((24, 30))


def hostile(X, name):
    """An AnnData with a hostile name wherever a name can be."""
    adata = as_anndata(X, name)
    adata.obs[NAME] = np.where(np.arange(len(X)) % 2, NAME, f"b{NAME}")
    adata.obs["number"] = 1.5
    adata.obs[f"mixed{NAME}"] = pd.Series([1, "x"] * (len(X) // 2), index=adata.obs_names, dtype=object)
    adata.var[f"used{NAME}"] = True
    adata.var_names = [f"{NAME}{i}" for i in range(X.shape[1])]
    adata.layers[NAME] = adata.X.copy()
    adata.obsm[NAME] = np.zeros((len(X), 2))
    adata.uns[NAME] = {NAME: NAME}
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def paths(folder):
    out = [folder / f"{name}{NAME}.zarr" for name in "ab"]
    for path, X in zip(out, (A, B), strict=True):
        adata = hostile(X, path.name[0])
        del adata.obs[f"mixed{NAME}"]
        adata.write_zarr(path)
    return out


@pytest.fixture(scope="module")
def corrected(paths, folder):
    out = folder / f"out{NAME}.zarr"
    with pytest.raises(SystemExit) as end:
        main(["correct", *map(str, paths), "-o", str(out), "-k", "5", "-q"])
    assert not end.value.code
    return out


def check(text):
    """Nothing in the text acts on a terminal, or passes for a line of the command."""
    assert not (set(text) - {"\n"} - set(filter(str.isprintable, text)))
    assert not re.search(r"^\s*mnndask: forged", text, re.MULTILINE)


def run(capsys, *args):
    """Run the command; its exit status and all that it printed."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    out, err = capsys.readouterr()
    return end.value.code or 0, out + err


def test_the_name_is_hostile_and_escaped_once():
    assert len(NAME.splitlines()) == 5
    assert not NAME.isprintable()
    escaped = printable(NAME)
    assert escaped == repr(NAME)[1:-1] == printable(escaped)
    assert escaped.startswith("Zürich\\x1b")
    assert escaped.endswith("\\u2029心臓")
    assert printable(UNDECODABLE) == "\\udcff"


COMMANDS = {
    "correct": (0, "correct {a} {b} -o {new} -k 40"),
    "one batch": (0, "correct {a} -o {new} -k 5 --batch-key {N} --mnn-order {N},b{N}"),
    "info": (0, "info {out}"),
    "report": (0, "report {out} -o {new}.html --label {label}"),
    "simulate": (0, "simulate -o {new} --n-cells 60 --n-genes 20 --n-batches 2"),
    "no input": (2, "correct {a}{N} {b} -o {new}"),
    "no input of info": (2, "info {new}"),
    "not corrected": (0, "info {a}"),
    "output exists": (2, "correct {a} {b} -o {out}"),
    "output is an input": (2, "correct {a} {b} -o {a} --overwrite"),
    "report exists": (2, "report {out} -o {out}/zarr.json"),
    "no folder of the report": (2, "report {out} -o {new}/x.html"),
    "no label": (2, "report {out} -o {new}.html --label no{N}"),
    "no layer": (2, "correct {a} {b} -o {new} --layer no{N}"),
    "no batch": (2, "correct {a} {b} -o {new} --mnn-order no{N},x"),
    "no column of var": (2, "correct {a} {b} -o {new} --hvg-key no{N}"),
    "no column of obs": (2, "correct {a} {b} -o {new} --restrict no{N}"),
    "not a boolean column": (2, "correct {a} {b} -o {new} --restrict {N}"),
    "no gene": (2, "correct {a} {b} -o {new} --var-subset {genes}"),
    "no gene list": (2, "correct {a} {b} -o {new} --var-subset {new}"),
    "categories": (2, "correct {a} {b} -o {new} --batch-categories {N},{N}"),
    "number": (2, "correct {a} {b} -o {new} -k 5{N}"),
    "sketch": (2, "correct {a} {b} -o {new} --sketch-size 5{N}"),
    "size": (2, "correct {a} {b} -o {new} --memory-limit 5{N}"),
    "choice": (2, "correct {a} {b} -o {new} --svd-mode {N}"),
    "option": (2, "correct {a} --no{N}"),
    "command": (2, "no{N}"),
    "argument": (2, "info {a} {N}"),
    "URL": (2, "info no{N}://x"),
    "NaN": (2, "correct {a} {nan} -o {new}"),
    "other genes": (2, "correct {a} {genes2} -o {new}"),
    "damaged": (2, "correct {a} {damaged} -o {new}"),
    "undecodable": (2, "info {new}\udcff"),
}


@pytest.fixture(scope="module")
def words(paths, corrected, folder):
    """What the words in braces stand for."""
    genes = folder / f"genes{NAME}"
    genes.write_text("no such gene\x1b[2J")
    nan, others = (ad.read_zarr(paths[1]) for _ in range(2))
    nan.X[3, 4] = np.nan
    others.var_names = [f"x{NAME}{i}" for i in range(others.n_vars)]
    for name, adata in (("nan", nan), ("genes2", others)):
        adata.write_zarr(folder / f"{name}{NAME}.zarr")
    damaged = folder / f"damaged{NAME}.h5ad"
    damaged.write_bytes(b"no HDF5")
    found = {"nan": folder / f"nan{NAME}.zarr", "genes2": folder / f"genes2{NAME}.zarr", "damaged": damaged}
    label = next(name for name in ad.read_zarr(corrected).obs if "forged" in name)
    found |= {"label": label}
    return {"a": paths[0], "b": paths[1], "out": corrected, "genes": genes, "N": NAME, **found}


@pytest.mark.parametrize("case", COMMANDS)
def test_what_the_command_prints_is_escaped(case, words, tmp_path, capsys):
    status, line = COMMANDS[case]
    args = [word.format(**words, new=tmp_path / f"new{NAME}.zarr") for word in line.split()]
    assert any(not arg.isprintable() for arg in args)
    found, printed = run(capsys, *args)
    check(printed)
    assert "\\x1b[2J" in printed
    assert found == status, printed
    assert "Traceback" not in printed


def test_a_traceback_is_escaped(capsys, monkeypatch, words):
    def fail(*_):
        raise RuntimeError(NAME)

    monkeypatch.setattr("mnndask.cli.look.read_record", fail)
    status, printed = run(capsys, "info", words["out"])
    assert status == 1
    assert "RuntimeError: Zürich\\x1b[2J" in printed
    check(printed)


def test_warnings_of_libraries_and_logged_ones_are_escaped(capsys, monkeypatch, words):
    def warn(*_):
        warnings.warn(NAME, UserWarning, stacklevel=1)
        logging.getLogger("mnndask.engine.cluster").warning("at %s", NAME)
        raise MNNError(NAME, f"Do {NAME}.")

    monkeypatch.setattr("mnndask.cli.look.read_record", warn)
    _, printed = run(capsys, "info", words["out"])
    assert printed.count("mnndask: warning: ") == 2
    assert printed.count("\\x1b[2J") == 4
    check(printed)


def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch, words):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as end:
        main(["info", str(words["out"])])
    sys.stdout.flush()
    assert not end.value.code
    assert b"Z\\xfcrich\\x1b[2J" in written.getvalue()


def test_what_python_shows_is_escaped(capsys, caplog):
    a, b = hostile(A, "a"), hostile(B, "b")
    with caplog.at_level(logging.INFO, "mnndask"), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        corrector = MNNCorrector(k=40, batch_categories=[NAME, f"b{NAME}"], show_progress=True)
        result = corrector.fit_transform([a, b])
    shown = [str(one.message) for one in seen]
    assert sum("\\x1b[2J" in text for text in shown) >= 2
    shown += [record.getMessage() for record in caplog.records]
    bars = capsys.readouterr().err
    assert "finding pairs" in bars
    shown += [bars.replace("\r", ""), repr(corrector), repr(corrector.model_), corrector._repr_html_()]
    ax = embedding(result, color=next(name for name in result.obs if name.startswith("Zürich")))
    shown += [ax.get_title(), *(text.get_text() for text in ax.get_legend().get_texts())]
    for text in shown:
        check(text)
    for text in shown[-5:]:
        assert "\\x" in text  # short in a legend
