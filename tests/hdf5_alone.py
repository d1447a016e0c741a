"""Read all attributes of an HDF5 file by h5py alone; print by how many bytes the memory of the process grew.

``python tests/hdf5_alone.py FILE``. Of some damaged files HDF5 takes gigabytes, or does not return.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import h5py


def read(item: h5py.Group | h5py.Dataset) -> None:
    """Read the attributes of an object, and of all that it contains."""
    for name in item.attrs:
        with suppress(Exception):
            item.attrs[name]
    for name in item if isinstance(item, h5py.Group) else ():
        with suppress(Exception):
            read(item[name])


def peak() -> int:
    """Peak of this process alone, in bytes; what `resource` tells begins with the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    before = peak()
    with h5py.File(sys.argv[1]) as file:
        read(file)
    print(peak() - before)
