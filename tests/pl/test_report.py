"""The report, the short form and the notebook reprs; the report as a browser shows it."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from browser import CHROMIUM, chromium, look_at
from helpers import as_anndata, make_batches

from mnndask import MNNCorrector, mnn_correct
from mnndask.cli.main import main
from mnndask.pl.coloring import batch_styles, coloring

NASTY = '<script>alert(1)</script> & "co"'
PICTURES = """[...document.images].map(i => ({
    alt: i.alt, loaded: i.complete && i.naturalWidth > 200, width: i.getBoundingClientRect().width,
    left: i.getBoundingClientRect().left, right: i.getBoundingClientRect().right}))"""

TABLES = """[...document.querySelectorAll('.scroll')].map(t => ({
    content: t.scrollWidth, width: t.clientWidth, shadow: getComputedStyle(t).backgroundImage,
    overflow: getComputedStyle(t).overflowX}))"""


def run(*args):
    """Run the command in this process; its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    return end.value.code or 0


def batches():
    out = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches())]
    for batch in out:
        batch.obs["kind"] = np.where(batch.X[:, 0] > batch.X[:, 1], NASTY, "T")
    return out


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A corrected store in both formats, and one that was not corrected."""
    folder = tmp_path_factory.mktemp("report")
    result = mnn_correct(*batches(), k=10, batch_categories=["<b>A</b>", "B", "C"], sketch_size=45)[0]
    result.write_zarr(folder / "corrected.zarr")
    result.write_h5ad(folder / "corrected.h5ad")
    batches()[0].write_zarr(folder / "raw.zarr")
    return folder


@pytest.fixture(scope="module")
def page(stores):
    output = stores / "report.html"
    assert run("report", stores / "corrected.zarr", "-o", output, "--label", "kind") == 0
    return output


class _Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_the_report_shows_pictures_tables_and_what_they_mean(page, stores):
    parsed = _Parsed(page.read_text())
    words = " ".join(parsed.words)
    images = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(images) == 10
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    steps = ad.read_zarr(stores / "corrected.zarr").uns["mnn"]["steps"]
    for row in steps.iloc[1:].itertuples():
        assert f"{row.paired:.0%} of the cells of {row.batch} found a pair" in words
        assert f"{row.n_pairs:,}" in words
    for told in ("sketch_size", "mnndask (of this page)", "LISI", "variance lost", "Cell types, by kind"):
        assert told in words
    assert NASTY in words
    assert "<b>A</b> is the reference" in words


def test_the_report_begins_with_the_verdict_and_says_what_the_values_are(page):
    text = page.read_text()
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[:3] == ["Verdict", "Values, genes and cells", "At a glance"]
    verdict, values = (part.split("</section>")[0] for part in text.split("<section>")[1:3])
    for name in ("B", "C"):
        assert re.search(rf"<strong>{name}: (mixed as expected|still apart)\.</strong> Where pairs", verdict)
    for told in ("cosine-normalised", "differential expression", "cos_norm_out=False", "All 40 genes", "60"):
        assert told in values


def test_every_heading_has_a_definition(page):
    text = page.read_text()
    for section in re.findall(r"<section>.*?</section>", text, re.DOTALL):
        terms = [" ".join(re.findall("<dt>(.*?)</dt>", section))]
        for table in re.findall(r"<thead>.*?</thead>", section, re.DOTALL):
            for heading in re.findall("<th>([^<]+)</th>", table)[1:]:
                known = heading.removesuffix(" (°)").removesuffix(" before").removesuffix(" after")
                plain = heading in {"what it is", "before", "after", "its value", "cells used for the fit"}
                assert plain or known in terms[0] or "Values" in section, heading
    assert text.count("<dd>") > 15


def test_captions_are_sentences_and_said_to_those_who_do_not_see(page):
    tags = _Parsed(page.read_text()).tags
    captions = re.findall("<figcaption>(.*?)</figcaption>", page.read_text())
    assert len(captions) == 10
    for caption in captions:
        assert re.match(r"[A-Z].{20,}\.$", caption)
    assert all(attrs["alt"].endswith(".") for tag, attrs in tags if tag == "img")
    assert all(attrs.get("tabindex") == "0" for _, attrs in tags if attrs.get("class") == "scroll")


def test_the_report_is_valid_html(page):
    void, open_tags = {"meta", "link", "img", "br"}, []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert not {"border", "align", "bgcolor"} & {name for name, _ in attrs}
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Nesting().feed(page.read_text())
    assert open_tags == []


def test_names_are_no_markup(page):
    tags = {tag for tag, _ in _Parsed(page.read_text()).tags}
    assert not tags & {"script", "b", "iframe", "object"}


def test_the_report_names_no_other_place(page):
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text())
    assert not re.findall(r"https?://|url\(|@import|<link(?! rel=\"icon\" href=\"data:,\")", text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
def test_a_browser_shows_the_report_wide_and_narrow(page, tmp_path):
    kept = Path(os.environ.get("MNNDASK_ARTIFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    with chromium() as port:
        for width in (1280, 400):
            page_width = "page: document.documentElement.scrollWidth"
            question = f"({{pictures: {PICTURES}, tables: {TABLES}, {page_width}}})"
            screenshot = kept / f"report-{width}.png"
            seen, errors, asked = look_at(port, page.as_uri(), width, question, screenshot)
            assert errors == []
            assert {url.split(":")[0] for url in asked} <= {"file", "data"}
            assert page.as_uri() in asked
            assert seen["page"] <= width  # nothing but tables scrolls sideways, and these within themselves
            assert len(seen["pictures"]) == 10
            wide = [table for table in seen["tables"] if table["content"] > table["width"]]
            assert len(wide) >= 3 if width == 400 else not wide
            assert all(table["shadow"].count("gradient") == 4 for table in wide)
            assert all(table["overflow"] == "auto" for table in wide)
            for picture in seen["pictures"]:
                assert picture["loaded"], picture["alt"]
                assert picture["width"] > 300
                assert 0 <= picture["left"] < picture["right"] <= width
            assert screenshot.stat().st_size > 50_000


def test_both_formats_give_the_same(stores, page):
    output = stores / "h5ad.html"
    assert run("report", stores / "corrected.h5ad", "-o", output, "--label", "kind") == 0
    assert page.read_text().replace("corrected.zarr", "corrected.h5ad") == output.read_text()


def test_only_what_is_needed_is_read(stores, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy.zarr"
    shutil.copytree(stores / "corrected.zarr", copy)
    shutil.rmtree(copy / "X")
    shutil.rmtree(copy / "obs" / "depth")
    assert run("info", copy) == 0
    assert run("report", copy, "-o", tmp_path / "report.html", "--label", "kind") == 0
    capsys.readouterr()


def test_the_report_has_the_colours_of_the_store(stores, tmp_path, monkeypatch):
    coloured = ad.read_zarr(stores / "corrected.zarr")
    coloured.uns["kind_colors"], coloured.uns["batch_colors"] = (
        ["#111111", "#222222"],
        ["red", "blue", "lime"],
    )
    coloured.write_zarr(tmp_path / "coloured.zarr")
    given = []
    monkeypatch.setattr("mnndask.cli.look.report_of", lambda cells, *_, **__: given.append(cells) or ("", []))
    assert run("report", tmp_path / "coloured.zarr", "-o", tmp_path / "a.html", "--label", "kind") == 0
    [cells] = given
    assert [one["color"] for one in batch_styles(cells)] == ["red", "blue", "lime"]
    assert [one["color"] for one in coloring(cells, cells, "kind").styles] == ["#111111", "#222222"]


def test_info_is_the_short_form(stores, capsys):
    assert run("info", stores / "corrected.h5ad") == 0
    out = capsys.readouterr().out
    assert "180 cells x 40 genes in 3 batches" in out
    assert re.search(r"\nB: [\d,]+ pairs, \d+ of 45 cells paired\n", out)
    assert "found a pair" in out
    assert "belong to its own batch" in out
    assert re.search(r"\nB: (mixed as expected|still apart)\. Where pairs connect it", out)


def test_records_without_a_verdict_say_so(stores, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mnndask.pl.report._figure", lambda *_: "")
    older = ad.read_h5ad(stores / "corrected.h5ad")
    older.uns["mnn"]["steps"] = older.uns["mnn"]["steps"].drop(columns=["merged"])
    older.write_h5ad(tmp_path / "older.h5ad")
    assert run("info", tmp_path / "older.h5ad") == 0
    assert "No verdict on the batches: the version of mnndask" in capsys.readouterr().out
    assert run("report", tmp_path / "older.h5ad", "-o", tmp_path / "older.html") == 0
    assert "No verdict on the batches: the version of mnndask" in (tmp_path / "older.html").read_text()


def test_errors_are_one_line(stores, tmp_path, capsys):
    corrected = stores / "corrected.zarr"
    taken = tmp_path / "taken.html"
    taken.write_text("")
    for args, told in (
        (("report", stores / "raw.zarr", "-o", tmp_path / "a.html"), "records no correction"),
        (("info", tmp_path / "none.zarr"), "does not exist"),
        (("info", tmp_path), "not a zarr group"),
        (
            ("report", corrected, "-o", tmp_path / "a.html", "--label", "no"),
            "no column 'no' in obs. Its columns are",
        ),
        (("report", corrected, "-o", taken), "already exists. Give another name, or --overwrite"),
        (("report", corrected, "-o", tmp_path / "no" / "a.html"), "does not exist. Create it first"),
    ):
        assert run(*args) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken.html"]


def test_a_correction_writes_its_report(tmp_path, capsys):
    paths = []
    for i, batch in enumerate(batches()):
        paths.append(tmp_path / f"plate{i}.h5ad")
        batch.write_h5ad(paths[-1])
    output = ["-k", 10, "-o", tmp_path / "out.zarr"]
    assert run("correct", *paths, *output, "--label", "kind") == 2
    assert "--report FILE" in capsys.readouterr().err
    assert run("correct", *paths, *output, "--report", tmp_path / "out.html", "--label", "kind") == 0
    out = capsys.readouterr().out
    assert f"report: {tmp_path / 'out.html'}" in out
    assert re.search(r"\nplate1: (mixed as expected|still apart)\. Where pairs connect it", out)
    words = " ".join(_Parsed((tmp_path / "out.html").read_text()).words)
    assert "plate1 found a pair" in words
    assert "reading, fitting and writing" in words


def test_kinds_that_were_merged_ask_for_attention(tmp_path, capsys):
    from mnndask.diagnostics.findings import findings_of_labels
    from mnndask.diagnostics.recorded_cells import RecordedCells

    result = mnn_correct(*batches(), k=10)[0]
    recorded = RecordedCells.of(result)
    result.obs["kind"] = np.arange(180) % 2 == 0
    assert not any(aid.attention for aid in findings_of_labels(*recorded.by_label("kind")))
    sample = result.uns["mnn"]["sample"]
    result.obs["kind"] = sample["before"][:, 0] > np.median(sample["before"][:, 0])
    sample["after"][:] = np.random.default_rng(0).normal(size=sample["after"].shape)
    told = [aid.text for aid in findings_of_labels(*recorded.by_label("kind")) if aid.attention]
    assert "The drop means that unlike cells were merged" in told[0]
    assert "Cells labelled True were merged with others" in " ".join(told)


def test_notebooks_show_what_was_fitted():
    corrector = MNNCorrector(k=10, batch_categories=["<b>A</b>", "B", "C"])
    assert "Merged in this order" not in corrector._repr_html_()
    corrector.fit(batches())
    html = corrector._repr_html_()
    words = " ".join(_Parsed(html).words)
    assert "Merged in this order" in words
    assert f"{len(corrector.mnns_[1]):,}" in words
    assert "&lt;b&gt;A&lt;/b&gt;" in html
    assert corrector._repr_mimebundle_()["text/html"].endswith(html[-300:])


def test_a_model_shows_itself_in_a_line():
    model = MNNCorrector(k=10, batch_categories=["<b>A</b>", "B", "C"]).fit(batches()).model_
    n_anchors = sum(len(step.anchors) for step in model.steps)
    assert repr(model) == f"<CorrectionModel: <b>A</b> <- B <- C; 40 genes, {n_anchors:,} anchors>"
