"""The code of each page of the documentation, and of the README, runs from top to bottom."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import s3fs
from pages import blocks_of
from s3_fixtures import KEY, SECRET

import mnndask
from mnndask import RECOMMENDED, mnn_correct
from mnndask.datasets import simulate

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FROM_ELSEWHERE = {"benchmarks.md", "changelog.md", "contributing.md"}
PAGES = [
    ROOT / "README.md",
    *sorted(
        path
        for path in DOCS.rglob("*.md")
        if not {"_build", "tutorials"} & set(path.relative_to(DOCS).parts) and path.name not in FROM_ELSEWHERE
    ),
]
WITH_CODE = [path for path in PAGES if {"python", "sh"} & {block[0] for block in blocks_of(path.read_text())}]
LANGUAGES = {"python", "sh", "r"}  # r is not run
SLURM = DOCS / "how-to" / "slurm.sh"
JOBQUEUE = DOCS / "how-to" / "jobqueue.py"

# What SLURM does with a batch script, or with a step of it, on this machine and at once.
SRUN = """#!/bin/bash
n=1
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && n=${1#*=}; shift; done
for _ in $(seq $n); do "$@" & done
wait
"""
SCANCEL = """#!/bin/bash
pkill -P "$1"; kill "$1"; true
"""
SBATCH = """#!/bin/bash
bash "${@: -1}" >/dev/null 2>&1 </dev/null &
echo "Submitted batch job $!"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What pages speak of: cells of several donors in one file, batches in files of their own, raw counts."""
    folder = tmp_path_factory.mktemp("inputs")
    batches = simulate(n_cells=720, n_genes=300, n_batches=4, batch_effect=1.0, seed=0)
    a = ad.concat(batches, index_unique="-", keys=list("abcd"))
    a.var["highly_variable"] = np.arange(a.n_vars) < 200
    names = a.obs["batch"].astype(str)
    a.obs["sample"] = a.obs["donor"] = pd.Categorical(names)
    first_two = names.isin(sorted(set(names))[:2])
    a.obs["study"] = pd.Categorical(np.where(first_two, "one", "two"))
    a.obs["tissue"] = pd.Categorical(np.where(first_two, "lung", "blood"))
    a.obs["condition"] = pd.Categorical(np.where(np.arange(a.n_obs) % 2, "control", "treated"))
    del a.obs["batch"]
    a.write_h5ad(folder / "all.h5ad")
    for name, sample in zip("abc", sorted(set(names)), strict=False):
        one = a[names.to_numpy() == sample].copy()
        one.obs = one.obs.drop(columns=["sample", "donor"])
        one.write_h5ad(folder / f"{name}.h5ad")
        one.write_zarr(folder / f"{name}.zarr")
    write_labs(folder)
    return folder


def write_labs(folder, n_genes=2600):
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.5, 2, (3, n_genes))
    (folder / "labs").mkdir()
    for name in "abc":
        kinds = rng.integers(3, size=150)
        counts = rng.poisson(profiles[kinds] * rng.gamma(8, 1 / 8, n_genes)).astype(np.float32)
        genes = rng.permutation(n_genes)[: n_genes - 50]
        lab = ad.AnnData(
            counts[:, genes],
            obs=pd.DataFrame({"cell_type": kinds.astype(str)}, index=[f"cell{i}" for i in range(150)]),
            var=pd.DataFrame(index=[f"gene{i}" for i in genes]),
        )
        lab.write_h5ad(folder / f"lab_{name}.h5ad")
        shutil.copy(folder / f"lab_{name}.h5ad", folder / "labs")


@pytest.fixture
def run(inputs, tmp_path):
    """Run a command in a new folder that has the inputs."""
    place = tmp_path / "work"
    shutil.copytree(inputs, place)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"srun": SRUN, "sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    more = {"PATH": path, "MPLBACKEND": "agg", "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*words, **environment):
        done = subprocess.run(
            words, cwd=place, env=os.environ | more | environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return place

    return run


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_is_of_a_known_language(page):
    assert {language for language, _, _ in blocks_of(page.read_text())} <= LANGUAGES


def test_the_reference_lists_every_public_name():
    listed = (DOCS / "reference" / "api.md").read_text()
    modules = [mnndask.datasets, mnndask.metrics, mnndask.pl, mnndask.pp]
    names = {name for module in modules for name in module.__all__} | set(mnndask.__all__)
    apart = {"datasets", "errors", "metrics", "pl", "pp"}  # modules, which have headings or pages
    assert [name for name in sorted(names - apart) if name not in listed] == []


def test_the_page_on_the_record_explains_every_key_and_column():
    page = (DOCS / "reference" / "record.md").read_text()
    batches = simulate(n_cells=300, n_genes=100, n_batches=2, batch_effect=1.0, seed=0)
    del batches[0].var["highly_variable"]  # of one, so that none is marked in all
    record = mnn_correct(*batches, **RECOMMENDED, sketch_size=100)[0].uns["mnn"]
    names = [*record, *record["steps"].columns]
    assert [name for name in names if name != "batch" and f"`{name}`" not in page] == []


OFFLINE = [page for page in WITH_CODE if page.name != "object-stores.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", OFFLINE, ids=[str(page.relative_to(ROOT)) for page in OFFLINE])
def test_code_runs_from_top_to_bottom(page, run):
    run(sys.executable, str(ROOT / "tests" / "pages.py"), str(page))


@pytest.mark.slow
@pytest.mark.xdist_group("s3")
def test_the_page_on_object_stores_runs(inputs, run, s3_server):
    filesystem = s3fs.S3FileSystem(key=KEY, secret=SECRET, client_kwargs={"endpoint_url": s3_server.url})
    filesystem.mkdir("bucket")
    for name in "ab":
        filesystem.put(str(inputs / f"{name}.zarr"), f"bucket/{name}.zarr", recursive=True)
    region = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3_server.url}
    page = DOCS / "how-to" / "object-stores.md"
    words = sys.executable, str(ROOT / "tests" / "pages.py"), str(page)
    run(*words, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, **region)
    assert {"corrected.zarr", "again.zarr"} <= {path.rsplit("/", 1)[-1] for path in filesystem.ls("bucket")}


@pytest.mark.slow
def test_the_batch_script_for_slurm_runs(run, tmp_path):
    place = run(
        "bash",
        "-eu",
        str(SLURM),
        SLURM_SUBMIT_DIR=str(tmp_path),
        SLURM_JOB_ID="7",
    )
    assert ad.read_zarr(place / "corrected.zarr").n_vars == 300


@pytest.mark.slow
@pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason="needs dask-jobqueue")
def test_the_example_of_dask_jobqueue_runs(run):
    place = run(sys.executable, str(JOBQUEUE))
    assert ad.read_zarr(place / "corrected.zarr").n_vars == 300
