"""Named terms: what every cost function returns."""

import numpy as np
from numpy.typing import NDArray

Terms = dict[str, NDArray[np.float64]]
"""Name to a column; the terms of one function sum to its total."""


def total(terms: Terms) -> NDArray[np.float64]:
    """Sum of all terms, row by row.

    Raises:
        ValueError: there is no term to sum.
    """
    if not terms:
        raise ValueError("no terms")
    columns = list(terms.values())
    result = np.array(columns[0], dtype=np.float64)
    for column in columns[1:]:
        result += column
    return result


def at_row(terms: Terms, row: int) -> dict[str, float]:
    """The terms of one row that are not zero, as plain numbers."""
    return {name: float(column[row]) for name, column in terms.items() if column[row] != 0}
