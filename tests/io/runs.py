"""What tests of stopped and continued runs share."""

from __future__ import annotations

N_CHUNKS = 11  # of ten cells


def chunks(folder):
    """When each chunk of X was written, and as which file."""
    found = (folder / "X" / "c").glob("*/*")
    return {file.parent.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in found}


def contents(folder):
    """What is in all files of a folder."""
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}
