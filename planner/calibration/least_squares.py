"""Bounded least squares for a handful of numbers: Levenberg-Marquardt with projection onto the bounds."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
STEPS = 30
SMALLEST_GAIN = 1e-5
"""Relative fall of the sum of squares below which the fit has come to rest."""
DIFFERENCE = 1e-4
MOST_DAMPING = 1e6


def jacobian(residuals: Callable[[Vector], Vector], at: Vector, here: Vector) -> NDArray[np.float64]:
    """Derivatives of the residuals by forward differences, backward at the upper bound 1."""
    columns = []
    for index in range(len(at)):
        step = DIFFERENCE if at[index] + DIFFERENCE <= 1.0 else -DIFFERENCE
        moved = at.copy()
        moved[index] += step
        columns.append((residuals(moved) - here) / step)
    return np.stack(columns, axis=1)


def minimise(residuals: Callable[[Vector], Vector], start: Vector) -> Vector:
    """The point in the unit cube near ``start`` with the least sum of squared residuals.

    Source: K. Levenberg, A method for the solution of certain non-linear problems in least squares,
    Quarterly of Applied Mathematics 2(2), 1944; every step is projected onto the bounds.
    """
    at, damping = start.clip(0.0, 1.0), 1e-2
    here = residuals(at)
    for _ in range(STEPS):
        slope = jacobian(residuals, at, here)
        normal, gradient = slope.T @ slope, slope.T @ here
        # A number at a bound that wants to go beyond it does not move, nor does it steer the others.
        free = ~(((at <= 0.0) & (gradient > 0)) | ((at >= 1.0) & (gradient < 0)))
        if not free.any():
            break
        before = float(here @ here)
        at, here, damping = _step(residuals, (at, here), (normal, gradient, free), damping)
        if before - float(here @ here) < SMALLEST_GAIN * before:
            break
    return at


def _step(
    residuals: Callable[[Vector], Vector],
    current: tuple[Vector, Vector],
    system: tuple[NDArray[np.float64], Vector, NDArray[np.bool_]],
    damping: float,
) -> tuple[Vector, Vector, float]:
    """The first damped step that lowers the sum of squares, or none."""
    at, here = current
    normal, gradient, free = system
    scale = np.diag(normal)[free] + 1e-9
    while damping < MOST_DAMPING:
        move = np.zeros_like(at)
        move[free] = np.linalg.solve(normal[np.ix_(free, free)] + damping * np.diag(scale), -gradient[free])
        there = (at + move).clip(0.0, 1.0)
        found = residuals(there)
        if found @ found < here @ here:
            return there, found, max(damping / 5.0, 1e-6)
        damping *= 5.0
    return at, here, damping
