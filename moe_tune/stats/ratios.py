"""Ratios that are undefined where the whole is zero, and the array types of this folder."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.integer[Any]]
Tables = Mapping[str, NDArray[Any]]
"""The tables of one scope by name, as ``RoutingEvidence`` gives them, turned into numpy arrays."""

FEWEST = 30
"""Experts with fewer questions are left out of the spread: their raw accuracy is mostly noise."""


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return part / whole in float64, NaN where the whole is zero.

    Example:
        >>> ratio(np.array([1, 0]), np.array([4, 0]))
        array([0.25,  nan])
    """
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    quotient: Floats = np.full(part.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient
