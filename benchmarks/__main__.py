"""Run all benchmarks and print their figures as JSON: ``python -m benchmarks [CELLS] [GENES] [ROUNDS]``."""

import json
import platform
import sys
import warnings
from importlib.metadata import version

from benchmarks.whole_call import run

warnings.simplefilter("ignore")
figures = run(*map(int, sys.argv[1:]))
packages = {name: version(name) for name in ("mnndask", "numpy", "scipy", "dask", "zarr", "anndata")}
print(
    json.dumps({"python": platform.python_version(), "packages": packages, "whole_call": figures}, indent=1)
)
