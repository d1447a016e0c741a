"""What benchmarks share: options, and the output of figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from benchmarks.memory import HOW

PACKAGES = ("mnndask", "numpy", "scipy", "scikit-learn", "dask", "zarr", "anndata")


def benchmark(
    name: str,
    doc: str | None,
    run: Callable[[Any], Any],
    full: dict[str, Any],
    toy: dict[str, Any],
    given: Sequence[str] | None,
    show: Callable[[Any], str] | None = None,
) -> None:
    """Run a benchmark with the options of the command line; print its figures, and write them if requested.

    `run` gets an object with an attribute for each entry of `full`. Each entry is an option, whose default is
    that of `toy` with --toy. The option of a list takes several values, that of None a path,
    that of an empty list paths.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="run sizes that take seconds")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    for option, value in full.items():
        several = isinstance(value, list)
        kind = Path if value in (None, []) else type(value[0] if several else value)
        flag = "--" + option.replace("_", "-")
        parser.add_argument(flag, type=kind, nargs="+" if several else None, help=f"default: {value}")
    small = parser.parse_args(given).toy
    parser.set_defaults(**(full | toy if small else full))
    asked = parser.parse_args(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = run(asked)
    options = {key: _plain(v) for key, v in vars(asked).items() if key != "json"}
    text = json.dumps({"benchmark": name, **machine(), "options": options, "figures": figures}, indent=1)
    print(show(figures) if show else text)
    if asked.json:
        asked.json.write_text(text + "\n")


def _plain(option: Any) -> Any:
    """An option as JSON knows it."""
    if isinstance(option, list):
        return [_plain(value) for value in option]
    return str(option) if isinstance(option, Path) else option


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """Versions and hardware that the figures depend on."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "blas": _blas(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_is": HOW,
    }


def _blas() -> list[str]:
    """Libraries, and the kernels that they chose for this processor or were told to use."""
    libraries = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
    return sorted({f"{b['internal_api']} {b['version']}, {b.get('architecture')} kernels" for b in libraries})


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
