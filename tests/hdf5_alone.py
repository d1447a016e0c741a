"""Read all attributes of an HDF5 file by h5py alone; print by how many bytes the memory of the process grew.

``python tests/hdf5_alone.py FILE``. Of some damaged files HDF5 takes gigabytes, or does not return.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

import h5py


def read(item: h5py.Group | h5py.Dataset) -> None:
    """Read the attributes of an object, and of all that it contains."""
    for name in item.attrs:
        with suppress(Exception):
            item.attrs[name]
    for name in item if isinstance(item, h5py.Group) else ():
        with suppress(Exception):
            read(item[name])


if __name__ == "__main__":
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with h5py.File(sys.argv[1]) as file:
        read(file)
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
