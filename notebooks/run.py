"""Run notebooks from top to bottom, in place: ``python notebooks/run.py [NAME.ipynb ...]``.

Needs the extra `test`. What is kept: results and pictures, not progress bars and times of execution.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
ALL = sorted(FOLDER.glob("*.ipynb"))
VIEW = "application/vnd.jupyter.widget-view+json"


def executed(path: Path, **parameters: Any) -> nbformat.NotebookNode:
    """The notebook with outputs of a new run, in its folder; `parameters` replace some of its own."""
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        _put(notebook, parameters)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=600, resources=resources, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def _put(notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Assign after the cell that is tagged so, which must name them all."""
    [i] = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    for name in parameters:
        if f"{name} =" not in notebook.cells[i].source:
            what = f"The notebook has no parameter {name!r}."
            raise KeyError(what)
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(i + 1, nbformat.v4.new_code_cell(source))


def _is_passing(output: nbformat.NotebookNode) -> bool:
    """A bar, as a widget or as text that is written over; or word of connections that s3fs keeps."""
    if output.output_type == "stream":
        text = output.text
        return output.name == "stderr" and ("\r" in text or not text.strip() or text.startswith("Unclosed "))
    return VIEW in output.get("data", {})


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or ALL):
        print(path.name, flush=True)
        nbformat.write(executed(path), path)
