"""Products that others measured by themselves, where their tables lie beside the checkout: what tiles make of them."""

from pathlib import Path

import numpy as np
import pytest

from planner.calibration.kernels import read_kernels
from planner.calibration.tiles import fit_tiles
from planner.cost_model.products import alone_seconds
from planner.handover.measurements import Product
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

TABLE = Path(__file__).parents[2].parent / "shared" / "data" / "kernels" / "matrix_products.csv.gz"

pytestmark = pytest.mark.skipif(not TABLE.is_file(), reason="no tables of measured kernels beside the checkout")


def products(name: str) -> tuple[HardwareSpec, tuple[Product, ...]]:
    """A built-in card, and its products in the table."""
    spec = load_spec(name, HardwareSpec)
    return spec, read_kernels([TABLE], None, spec).products


@pytest.mark.parametrize(
    ("name", "mean"), [("a100-80g", 0.055), ("h100-80g", 0.065), ("h200-141g", 0.075), ("l40s", 0.095)]
)
def test_products_are_predicted(name: str, mean: float) -> None:
    """Each row by itself, of both libraries, which differ from each other by 6 %."""
    spec, measured = products(name)
    assert spec.efficiency.tiles is not None
    sides = tuple(np.array([float(getattr(one, side)) for one in measured]) for side in ("m", "n", "k"))
    seconds = alone_seconds(spec.efficiency.tiles, spec.peak_flops_per_s["bf16"], (sides[0], sides[1], sides[2]))
    errors = np.abs(seconds / np.array([one.seconds for one in measured]) - 1.0)
    assert len(errors) > 7000
    assert float(errors.mean()) < mean


@pytest.mark.parametrize("name", ["a100-80g", "h100-80g", "h200-141g", "l40s"])
def test_tiles_are_what_the_table_gives(name: str) -> None:
    spec, measured = products(name)
    stated = spec.efficiency.tiles
    assert stated is not None
    assert fit_tiles(measured, stated.multiprocessors, spec.peak_flops_per_s["bf16"]).tiles == stated
