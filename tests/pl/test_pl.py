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
    plt.close("all")  # of other tests
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


def colours_of(ax):
    """Colour of each name in the legend."""
    handles, names = ax.get_legend_handles_labels()
    points = [(h, name) for h, name in zip(handles, names, strict=True) if hasattr(h, "get_facecolor")]
    return {name: mpl.colors.to_hex(handle.get_facecolor()[0]) for handle, name in points}


@pytest.fixture(scope="module")
def with_colours(corrected):
    out = corrected.copy()
    out.obs["batch"] = out.obs["batch"].cat.reorder_categories(["plate C", "plate B", "plate A"])
    out.uns["batch_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    out.obs["kind"] = out.obs["kind"].astype("category")
    out.uns["kind_colors"] = np.array(["#123456", "#654321"])
    rng = np.random.default_rng(0)
    out.obsm["X_umap"], out.obsm["latent"] = rng.normal(size=(180, 2)), rng.normal(size=(180, 4))
    return out


def test_a_list_of_colours_is_drawn_side_by_side(with_colours):
    panels = pl.embedding(with_colours, color=["kind", None, "g3", "depth"], components=["1,2", "3,4"])
    assert len(panels) == 8
    assert len({ax.figure for ax in panels}) == 1
    titles = [ax.get_title().removeprefix("Cells after correction, by ") for ax in panels]
    assert titles[::2] == ["kind", "batch", "g3", "depth"] == titles[1::2]
    assert [ax.get_xlabel() for ax in panels[:2]] == ["PC 1", "PC 3"]


def test_genes_are_those_of_raw_if_there_is_one(with_colours):
    shown = with_colours.obs["mnn_sample"].to_numpy().argsort()
    drawn = pl.embedding(with_colours, color="g3").collections[0].get_array()
    np.testing.assert_allclose(drawn, with_colours.X[shown, 3])
    raw = with_colours.copy()
    raw.raw = raw.copy()
    raw.X = raw.X * 0
    np.testing.assert_allclose(pl.embedding(raw, color="g3").collections[0].get_array(), drawn)


def test_colours_are_those_of_uns_in_every_picture(with_colours):
    red, green, blue = (
        {"plate C": "#ff0000"},
        {"plate B": "#00ff00"},
        {"plate A": "#0000ff"},
    )
    expected = red | green | blue
    for ax in (
        pl.embedding(with_colours),
        pl.embedding(with_colours, "before"),
        pl.embedding(with_colours, color="batch"),
        pl.embedding(with_colours, basis="umap"),
    ):
        assert colours_of(ax) == expected
    assert colours_of(pl.embedding(with_colours, color="kind")) == {"B <&>": "#123456", "T": "#654321"}
    for draw in (pl.correction_length, pl.variance_factor):
        boxes = [mpl.colors.to_hex(box.get_facecolor()) for box in draw(with_colours).patches]
        assert boxes == ["#00ff00", "#ff0000"]
    assert colours_of(pl.pairs(with_colours, "plate C"))["plate C"] == "#ff0000"


def test_batches_have_the_same_colours_however_they_are_asked_for(corrected):
    other_order = corrected.copy()
    other_order.obs["batch"] = other_order.obs["batch"].cat.reorder_categories(
        ["plate C", "plate A", "plate B"]
    )
    expected = colours_of(pl.embedding(corrected))
    assert colours_of(pl.embedding(other_order, color="batch")) == expected
    assert colours_of(pl.pairs(corrected, "plate B"))["plate B"] == expected["plate B"]


@pytest.mark.parametrize("basis", ["umap", "X_umap", "latent"])
def test_any_obsm_is_drawn_for_all_cells(with_colours, basis):
    part = with_colours[::-1][:100]
    ax = pl.embedding(part, color="g3", basis=basis)
    key = basis if basis in with_colours.obsm else f"X_{basis}"
    np.testing.assert_allclose(ax.collections[0].get_offsets(), part.obsm[key][:, :2])
    np.testing.assert_allclose(ax.collections[0].get_array(), part.X[:, 3])


def test_plots_are_saved_as_scanpy_names_them(corrected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    with monkeypatch.context() as only_touched:
        only_touched.setattr(mpl.figure.Figure, "savefig", lambda _, file, **__: file.touch())
        for draw in (pl.embedding, pl.mixing, pl.pairs, pl.correction_length, pl.variance_factor):
            assert draw(corrected, save="_a.png").get_title()
        pl.merge_overview(corrected, save=True)
    assert not shown
    pl.embedding(corrected, save=tmp_path / "own" / "name.svg", show=True)
    assert shown
    names = ["correction_length", "embedding", "mixing", "pairs", "variance_factor"]
    expected = [*(f"{name}_a.png" for name in names), "merge_overview.pdf"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(expected)
    assert (tmp_path / "own" / "name.svg").read_bytes()[:5] == b"<?xml"
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"cannot be written: .*\n.*another folder"):
        pl.embedding(corrected, save="taken/a.png")


WRONG = {
    "a gene that is not there": ({"color": "g99"}, r"no column 'g99' in obs, and no gene.*\n.*kind"),
    "no colours": ({"color": []}, r"color is an empty list.*\n"),
    "components beyond": ({"components": "1,99"}, r"components is '1,99'.*\n.*from 1 to \d+, such as"),
    "components from 0": ({"components": "0,1"}, r"components is '0,1'"),
    "components as words": ({"components": ["1,2", "x"]}, r"components is 'x'"),
    "a number of components": ({"components": [3]}, r"components is 3"),
    "no component": ({"components": []}, r"components is empty"),
    "a basis that is not there": ({"basis": "tsne"}, r"no 'tsne' or 'X_tsne' in obsm.*\n.*X_umap, latent"),
    "a basis before": ({"basis": "umap", "when": "before"}, r"obsm has one state only"),
    "a method": ({"method": "tsne"}, r"method is 'tsne'.*\n.*basis="),
    "a name of a file": ({"save": 3}, r"save is 3"),
    "a type of file": ({"save": "_a.xyz"}, r"embedding_a.xyz cannot be written.*\n.*\.pdf"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_options_are_one_clear_line(with_colours, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, told = WRONG[wrong]
    with pytest.raises((InputError, InputKeyError), match=told) as raised:
        pl.embedding(with_colours, **options)
    assert len(str(raised.value).splitlines()) == 2


def test_axes_are_for_one_colour(with_colours):
    with pytest.raises(InputError, match="ax was given with a list"):
        pl.embedding(with_colours, color=["kind"], ax=plt.subplots()[1])


def test_colours_that_are_none_are_refused_and_too_few_ignored(with_colours):
    bad = with_colours.copy()
    bad.uns["kind_colors"] = ["no colour", "red"]
    with pytest.raises(InputError, match=r"uns\['kind_colors'\] has 'no colour'.*\n"):
        pl.embedding(bad, color="kind")
    bad.uns["kind_colors"] = ["#ff0000"]
    assert set(colours_of(pl.embedding(bad, color="kind")).values()) != {"#ff0000"}


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
