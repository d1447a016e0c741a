"""Pictures of a correction: drawn, labelled, and telling corrected cells from uncorrected ones."""

import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from helpers import as_anndata, make_batches

from mnndask import mnn_correct, pl
from mnndask.errors import InputError, InputKeyError

mpl.use("Agg")
from matplotlib import pyplot as plt

DRAWN = {
    "embedding": pl.embedding,
    "embedding before": lambda data, ax=None: pl.embedding(data, "before", ax=ax),
    "embedding by label": lambda data, ax=None: pl.embedding(data, color="kind", ax=ax),
    "embedding by number": lambda data, ax=None: pl.embedding(data, color="depth", ax=ax),
    "mixing": pl.mixing,
    "mixing by label": lambda data, ax=None: pl.mixing(data, label="kind", ax=ax),
    "pairs": pl.pairs,
    "correction_length": pl.correction_length,
    "variance_factor": pl.variance_factor,
    "merge_overview": pl.merge_overview,
}
ONLY_BEFORE = {"embedding before"}


def result(shift=1.0, **options):
    batches = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches())]
    for i, batch in enumerate(batches):
        batch.X = batch.X + shift * i * np.linspace(0, 3, 40)
        batch.obs["kind"] = np.where(batch.X[:, 0] > batch.X[:, 1], "B <&>", "T")
    return mnn_correct(*batches, k=10, batch_categories=["plate A", "plate B", "plate C"], **options)[0]


@pytest.fixture(scope="module")
def corrected():
    return result()


@pytest.fixture(scope="module")
def other():
    return result(shift=0.0, var_adj=False)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def pixels(ax):
    ax.figure.set_dpi(50)
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_drawn_and_labelled(corrected, name):
    ax = DRAWN[name](corrected)
    image = pixels(ax)
    assert (image < 250).any(axis=2).mean() > 0.01
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    ax.figure.canvas.draw()
    for text in ax.texts if name == "variance_factor" else [ax.title, ax.xaxis.label, ax.yaxis.label]:
        assert text.get_window_extent().width <= ax.figure.bbox.width


@pytest.mark.parametrize("name", DRAWN)
def test_axes_that_are_given_are_drawn_on(corrected, name):
    figure, (left, right) = plt.subplots(1, 2)
    assert DRAWN[name](corrected, ax=right) is right
    assert right.get_title()
    assert not left.get_title()
    assert plt.get_fignums() == [figure.number]


def test_an_embedding_shows_whether_batches_were_apart(corrected):
    def medians(when):
        ax = pl.embedding(corrected, when)
        sample = corrected.uns["mnn"]["sample"]
        own = [sample[when][sample["batch"] == b, :2] for b in range(3)]
        frame = ax.get_xlim(), ax.get_ylim()
        return max(np.linalg.norm(np.median(a, axis=0) - np.median(own[0], axis=0)) for a in own), frame, ax

    (before, frame, ax_before), (after, same_frame, ax_after) = medians("before"), medians("after")
    assert before > 1.5 * after
    assert frame == same_frame
    assert (pixels(ax_before) != pixels(ax_after)).any(axis=2).mean() > 0.005


@pytest.mark.parametrize("name", [name for name in DRAWN if name not in ONLY_BEFORE])
def test_pictures_differ_between_corrections(corrected, other, name):
    assert (pixels(DRAWN[name](corrected)) != pixels(DRAWN[name](other))).any(axis=2).mean() > 0.001


def test_batches_and_groups_are_named_beside_the_data(corrected):
    ax = pl.embedding(corrected)
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["plate A", "plate B", "plate C"]
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    named = [t.get_text() for t in pl.embedding(corrected, color="kind").get_legend().get_texts()]
    assert named == ["B <&>", "T"]


def test_points_are_rasterised(corrected):
    ax = pl.embedding(corrected)
    assert all(c.get_rasterized() for c in ax.collections if len(c.get_offsets()))


def test_the_order_of_merging_is_kept():
    ax = pl.merge_overview(result(mnn_order=["plate C", "plate A", "plate B"]))
    assert "plate C" in ax.get_title()
    assert [t.get_text().split("\n")[0] for t in ax.get_yticklabels()] == ["1. plate A", "2. plate B"]


def test_pairs_are_lines_between_paired_cells(corrected):
    ax = pl.pairs(corrected, "plate C", n_pairs=20)
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2]
    assert 0 < len(lines) <= 20
    cells = corrected.uns["mnn"]["sample"]
    ends = {tuple(end) for line in lines for end in line.round(5)}
    assert ends <= {
        tuple(c) for state in ("before", "after") for c in cells[state][:, :2].astype(float).round(5)
    }
    with pytest.raises(InputError, match="'plate A' was not merged"):
        pl.pairs(corrected, "plate A")


def test_umap_lays_out_both_states_together(corrected, monkeypatch):
    class UMAP:
        def __init__(self, **_):
            pass

        def fit_transform(self, cells):
            assert len(cells) == 2 * corrected.n_obs
            return -cells[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    ax, plain = pl.embedding(corrected, method="umap"), pl.embedding(corrected)
    assert ax.get_xlabel() == "UMAP 1"
    np.testing.assert_allclose(ax.get_xlim(), -np.array(plain.get_xlim()[::-1]), rtol=1e-5)


def test_what_is_missing_is_said(corrected, monkeypatch):
    with pytest.raises(InputKeyError, match=r"no column 'nothing'.*\n.*kind"):
        pl.embedding(corrected, color="nothing")
    with pytest.raises(InputError, match=r"records no correction"):
        pl.mixing(as_anndata(make_batches()[0]))
    for name in ("matplotlib.pyplot", "umap"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"not installed.*\n.*mnndask\[plot\]"):
        pl.mixing(corrected)


def test_as_many_batches_as_there_are_can_be_told_apart():
    many = mnn_correct(*[as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches((25,) * 12))], k=5)[0]
    for draw in (pl.embedding, pl.mixing, pl.correction_length, pl.merge_overview):
        pixels(draw(many))
    collections = [c for c in pl.embedding(many).collections if not len(c.get_offsets())]
    drawn = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in collections}
    assert len(drawn) == 12
