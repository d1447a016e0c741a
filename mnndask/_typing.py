"""Types that all packages share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Dense NumPy or CSR rows: the stubs give scipy's two sparse families no type in common with either.
Block: TypeAlias = Any
Rows = NDArray[np.intp]
Floats = NDArray[np.floating]

# A NumPy array, or a stored matrix that gives one when it is sliced.
Matrix: TypeAlias = Any
