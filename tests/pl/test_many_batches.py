"""Results of many batches can be read: pictures stay small, and lists are summaries with the worst."""

import base64
import re
import struct

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import mnndask
from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.pl.drawing import MOST_BATCHES

N_BATCHES = 60


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    """Store of many batches of few cells, of which one has a batch effect that is not corrected."""
    rng = np.random.default_rng(0)
    types = rng.gamma(1, 1, (3, 30)).astype(np.float32)
    batches = []
    for i in range(N_BATCHES):
        label = rng.integers(0, 3, 12)
        obs = pd.DataFrame(
            {"type": pd.Categorical(label.astype(str))}, index=[f"c{i}_{j}" for j in range(12)]
        )
        obs["batch"] = f"donor{i}"
        X = np.log1p(rng.poisson(3 * types[label])).astype(np.float32)
        batches.append(ad.AnnData(X + np.float32(0.02 * i), obs))
    result = mnn_correct(*batches, k=5, n_components=10, var_adj=False, mnn_order="share")[0]
    path = tmp_path_factory.mktemp("many") / "corrected.zarr"
    mnndask.write_zarr(result, path)
    return result, path


def run(*command):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, command)))
    assert ended.value.code == 0


def sizes_of_pictures(html):
    for data in re.findall(r'base64,([^"]+)', html):
        yield struct.unpack(">II", base64.b64decode(data)[16:24])


def test_a_report_is_short(corrected, tmp_path, capsys):
    report = tmp_path / "report.html"
    run("report", corrected[1], "-o", report, "--label", "type")
    html = report.read_text()
    sizes = list(sizes_of_pictures(html))
    assert len(sizes) > 5
    assert max(height for _, height in sizes) <= 2000
    assert html.count("<li") < 60
    assert f"<summary>{N_BATCHES} rows" in html
    assert len(html) < 5e6
    assert len(capsys.readouterr().err.splitlines()) <= 21


def test_a_summary_is_short(corrected, capsys):
    run("info", corrected[1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50
    assert any("those with the fewest paired cells" in line for line in lines)


@pytest.mark.parametrize("name", ["mixing", "merge_overview", "correction_length"])
def test_a_picture_has_the_batches_that_stand_out(corrected, name):
    ax = getattr(mnndask.pl, name)(corrected[0])
    ticks = ax.get_xticklabels() if name == "correction_length" else ax.get_yticklabels()
    assert len(ticks) == MOST_BATCHES
    assert f"{MOST_BATCHES} of" in ax.get_title()


def test_a_legend_says_how_many_more_there_are(corrected):
    texts = [text.get_text() for text in mnndask.pl.embedding(corrected[0]).get_legend().get_texts()]
    assert texts[-1] == f"and {N_BATCHES - MOST_BATCHES} more"
    assert len(texts) == MOST_BATCHES + 1
