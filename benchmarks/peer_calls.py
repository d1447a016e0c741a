"""One correction by one library, timed in parts. `benchmarks.peers` runs it in a process of its own.

``python peer_calls.py TOOL FIGURES INPUT...`` writes seconds and the shape of the result to the file FIGURES.
``python peer_calls.py about TOOL`` prints the versions of the tool and of its dependencies. The script stands
alone and keeps to Python 3.7, which mnnpy needs. Each tool imports only what it uses.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

N_COMPONENTS = 50
WARM_UP_CELLS = 60
N_JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Parts:
    """Seconds that the parts of a run take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def mnndask(parts: Parts, *paths: str):
    """All cells, in memory. Warmed up, so that late compilation and imports are not in the call."""
    with parts.part("import_s"):
        import anndata

        from mnndask import mnn_correct
    with parts.part("read_s"):
        batches = [anndata.read_zarr(path) for path in paths]
    with parts.part("warm_up_s"):
        mnn_correct(*(batch[:WARM_UP_CELLS] for batch in batches), sketch_size=None)
    with parts.part("correct_s"):
        corrected, _, _ = mnn_correct(*batches, sketch_size=None)
    return corrected.shape


def mnndask_command(parts: Parts, memory_limit: str, output: str, *paths: str):
    """The command with its default settings, from files to a file."""
    with parts.part("import_s"):
        import zarr

        from mnndask.cli.main import main
    with parts.part("correct_s"):
        try:
            main(["correct", *paths, "--memory-limit", memory_limit, "-o", output])
        except SystemExit as ended:
            if ended.code:
                raise
    return zarr.open_group(output, mode="r")["X"].shape


def mnnpy(parts: Parts, *paths: str):
    """Reads .npy files, as its anndata does not know the zarr format. Warmed up: a first call compiles."""
    with parts.part("import_s"):
        import numpy as np
        from mnnpy import mnn_correct
    with parts.part("read_s"):
        batches = [np.load(path) for path in paths]
    genes = [str(gene) for gene in range(batches[0].shape[1])]
    with parts.part("warm_up_s"):
        mnn_correct(*(batch[:WARM_UP_CELLS] for batch in batches), var_index=genes)
    with parts.part("correct_s"):
        corrected = mnn_correct(*batches, var_index=genes)[0]
    return corrected.shape


def scranpy(parts: Parts, *paths: str):
    with parts.part("import_s"):
        import anndata
        import scranpy
    with parts.part("read_s"):
        X, batch = _joined([anndata.read_zarr(path).X for path in paths])
    with parts.part("pca_s"):
        pca = scranpy.run_pca(X.T, number=_n_components(X), block=batch, num_threads=N_JOBS)
    with parts.part("correct_s"):
        corrected = scranpy.correct_mnn(pca["components"], batch, num_threads=N_JOBS)["corrected"]
    return corrected.T.shape


def harmonypy(parts: Parts, *paths: str):
    with parts.part("import_s"):
        import anndata
        import harmonypy
        import pandas as pd
        from sklearn.decomposition import PCA
    with parts.part("read_s"):
        X, batch = _joined([anndata.read_zarr(path).X for path in paths])
    with parts.part("pca_s"):
        components = PCA(_n_components(X), random_state=0).fit_transform(X)
    with parts.part("correct_s"):
        table = pd.DataFrame({"batch": batch.astype(str)})
        corrected = harmonypy.run_harmony(components, table, "batch", verbose=False).Z_corr
    return corrected.shape


def scanorama(parts: Parts, *paths: str):
    """Computes its components in the same call, which returns corrected genes, as CSR."""
    with parts.part("import_s"):
        import anndata
        import scanorama
    with parts.part("read_s"):
        batches = [anndata.read_zarr(path) for path in paths]
        matrices, genes = [b.X for b in batches], [list(b.var_names) for b in batches]
        del batches
    with parts.part("correct_s"):
        corrected, _ = scanorama.correct(matrices, genes, verbose=False)
    return sum(part.shape[0] for part in corrected), corrected[0].shape[1]


def _joined(parts: list):
    """All cells of all batches as CSR, and the batch of each cell."""
    import numpy as np
    from scipy import sparse

    batch = np.repeat(np.arange(len(parts)), [part.shape[0] for part in parts])
    return sparse.vstack(parts, format="csr"), batch


def _n_components(X) -> int:
    return min(N_COMPONENTS, min(X.shape) - 1)


def about(tool: str) -> None:
    """Print the versions of Python and of the tool's dependencies, if the tool can be imported."""
    __import__(tool)
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:  # Python 3.7
        from pkg_resources import DistributionNotFound as PackageNotFoundError
        from pkg_resources import get_distribution

        def version(name: str) -> str:
            return get_distribution(name).version

    versions = {"python": "{}.{}.{}".format(*sys.version_info)}
    for name in (tool, "numpy", "scipy", "scikit-learn", "numba", "anndata"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    print(json.dumps(versions))


TOOLS = {call.__name__: call for call in (mnndask, mnndask_command, mnnpy, scranpy, harmonypy, scanorama)}


def main(words: list[str]) -> None:
    warnings.simplefilter("ignore")
    if words[0] == "about":
        return about(words[1])
    parts = Parts()
    shape = TOOLS[words[0]](parts, *words[2:])
    with open(words[1], "w") as figures:
        json.dump(dict(parts.seconds, shape=[int(n) for n in shape]), figures)


if __name__ == "__main__":
    main(sys.argv[1:])
