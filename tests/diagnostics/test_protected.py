"""What a correction leaves of the difference between conditions that batches contain."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.diagnostics.protected import ALL, condition_effects
from mnndask.diagnostics.recorded_cells import RecordedCells


def batches(confounded=False):
    """Two batches with cells of two types, a part of which are ill: five genes are higher in these."""
    rng = np.random.default_rng(0)
    types = rng.gamma(1, 1, (2, 40))
    out = []
    for b in range(2):
        label = rng.integers(0, 2, 120)
        ill = np.full(120, b == 1) if confounded else rng.random(120) < 0.3
        X = np.log1p(rng.poisson(4 * types[label])) + 0.3 * b
        X[np.ix_(ill, np.arange(5))] += 1.5
        obs = pd.DataFrame({"type": [f"t{i}" for i in label]}, index=[f"b{b}_{j}" for j in range(120)])
        obs["condition"] = np.where(ill, "ill", "healthy")
        out.append(ad.AnnData(X.astype(np.float32), obs))
    return out


def test_an_effect_that_is_kept_has_the_same_direction_and_length():
    corrected = mnn_correct(*batches(), k=10, protect="condition")[0]
    found = condition_effects(RecordedCells.of(corrected), "condition", "type").set_index("cells")
    assert list(found.index) == [ALL, "t0", "t1"]
    assert (found["condition"] == "ill against healthy").all()
    assert (found["n_batches"] == 2).all()
    assert found["correlation"].min() > 0.9
    assert found["length"].between(0.6, 1.5).all()


def test_an_effect_that_is_turned_round_is_seen():
    corrected = mnn_correct(*batches(), k=10, protect="condition")[0]
    cells = RecordedCells.of(corrected)
    before = np.asarray(cells.sample["before"])
    turned = RecordedCells(cells.record, cells.obs, dict(cells.sample) | {"after": -2 * before}, cells.rows)
    (row,) = condition_effects(turned, "condition").to_dict("records")
    assert row["correlation"] == pytest.approx(-1)
    assert row["length"] == pytest.approx(2)


def test_batches_with_one_condition_have_none():
    with pytest.warns(UserWarning, match="constant in each batch"):
        corrected = mnn_correct(*batches(confounded=True), k=10, protect="condition")[0]
    assert condition_effects(RecordedCells.of(corrected), "condition") is None


@pytest.mark.parametrize("confounded", [False, True])
def test_the_report_says_so(confounded, tmp_path):
    paths = [tmp_path / f"{name}.h5ad" for name in "ab"]
    for batch, path in zip(batches(confounded), paths, strict=True):
        batch.write_h5ad(path)
    output, report = tmp_path / "out.zarr", tmp_path / "report.html"
    command = ["correct", *paths, "-o", output, "--protect", "condition", "-k", "10", "--report", report]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, command), "--label", "type"])
    assert ended.value.code == 0
    html = report.read_text()
    assert ("Effect of condition within batches" in html) != confounded
    assert ("is constant in each batch and differs" in html) == confounded
