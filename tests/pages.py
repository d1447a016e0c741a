"""Run the code of a page of the documentation from top to bottom: ``python tests/pages.py PAGE.md``.

Blocks of Python share their names. Blocks for the shell stop at the first error. Lines that install something
are left out, and R is not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = re.compile(r"^(pip install|git clone|cd |make ).*\n", re.MULTILINE)


def blocks_of(text):
    """Language, first line and text of each block of code."""
    return [(m[1], text[: m.start(2)].count("\n") + 1, m[2]) for m in BLOCK.finditer(text)]


def run(path):
    names = {"__name__": "__page__"}
    for language, line, code in blocks_of(path.read_text()):
        print(f"{path.name}, line {line}", flush=True)
        if language == "python":
            exec(compile("\n" * (line - 1) + code, path.name, "exec"), names)
        elif language == "sh" and (rest := INSTALLS.sub("", code)).strip():
            subprocess.run(["bash", "-euo", "pipefail", "-c", rest], check=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
