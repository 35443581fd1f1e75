"""A hardware spec from tables of kernels: rows are read, tiles are found again, and bad tables are refused."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from planner.calibration.tiles import LEAST_PRODUCTS, fit_tiles
from planner.cli import app as cli
from planner.cost_model.products import alone_seconds
from planner.handover.measurements import Product
from planner.specs import HardwareSpec, TilesSpec
from planner.specs.files import load_spec
from planner.specs.units import Seconds

Run = Callable[..., tuple[int, str, str]]
PEAK = 989e12
SHAPES = ((256, 128, 1.0), (128, 256, 1.0), (128, 128, 0.9), (64, 64, 0.6))
TRUE = TilesSpec(
    multiprocessors=132, rate=0.8, start_s=Seconds(3e-6), shapes=SHAPES, fill=150.0, tail=0.4, split=0.5, droop=0.06
)
PRODUCT_COLUMNS = ("device", "gemm_dtype", "m", "n", "k", "latency")
COLLECTIVE_COLUMNS = ("device", "op_name", "nccl_dtype", "num_gpus", "message_size", "latency")
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def gptplan(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            cli.main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return int(exit_info.value.code or 0), out, err

    return run


def products(tiles: TilesSpec = TRUE) -> Iterator[Product]:
    """Products of a device with these tiles, a few percent of noise on each."""
    noise = np.random.default_rng(1)
    for m in (1024, 1500, 2048, 4096, 6000, 8192):
        for n in (512, 768, 1024, 2560, 4096, 12288):
            for k in (512, 1024, 4096, 12288, 51200):
                seconds = float(alone_seconds(tiles, PEAK, (float(m), float(n), float(k))))
                yield Product(precision="bf16", m=m, n=n, k=k, seconds=seconds * noise.uniform(0.97, 1.03))


def table(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> Path:
    """A table of kernels, compressed if its name says so."""
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def product_table(path: Path) -> Path:
    """All products, one more of another device and one of another precision."""
    rows = [(H100, "bfloat16", one.m, one.n, one.k, one.seconds * 1e3) for one in products()]
    return table(path, PRODUCT_COLUMNS, [*rows, ("NVIDIA L4", "bfloat16", 1, 1, 1, 1), (H100, "fp8", 1, 1, 1, 1)])


def collective_table(path: Path) -> Path:
    """Rings at 360 GB/s with 2 us a message, over 4 and 8 devices."""
    rows: list[tuple[object, ...]] = [
        (H100, "alltoall", "half", 8, 2**20, 1.0),
        (H100, "all_reduce", "half", 8, 256, 1.0),
    ]
    for op, steps in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
        for size in (4, 8):
            for elements in (2**20, 2**24, 2**28):
                seconds = steps * ((size - 1) / size * elements * 2 / 360e9 + (size - 1) * 2e-6)
                rows.append((H100, op, "half", size, elements, seconds * 1e3))
    return table(path, COLLECTIVE_COLUMNS, rows)


def test_tiles_predict_products_that_were_held_out() -> None:
    fit = fit_tiles(list(products()), 132, PEAK)
    assert fit.fitted + fit.held_out == 180
    assert fit.held_out > 30
    assert fit.error < 0.035
    assert fit.tiles.droop == pytest.approx(TRUE.droop, abs=0.04)
    assert fit.tiles.start_s == pytest.approx(TRUE.start_s, rel=0.5)


def test_the_clock_of_tiles_falls_only_where_long_products_are_slower() -> None:
    steady = msgspec.structs.replace(TRUE, droop=0.0)
    assert fit_tiles(list(products(steady)), 132, PEAK).tiles.droop == 0.0
    assert fit_tiles(list(products()), 132, PEAK).tiles.droop > 0.0


def test_too_few_products_are_no_tiles() -> None:
    with pytest.raises(ValueError, match=f"{LEAST_PRODUCTS} shapes of products or more, and there are 5"):
        fit_tiles(list(products())[:5], 132, PEAK)


def test_a_spec_is_derived_from_tables(gptplan: Run, tmp_path: Path) -> None:
    made = tmp_path / "from-tables.toml"
    tables = (product_table(tmp_path / "products.csv.gz"), collective_table(tmp_path / "rings.csv"))
    given = [part for one in tables for part in ("--kernels", one)]
    code, out, err = gptplan("calibrate", *given, "--base", "h100-80g", "--multiprocessors", 132, "-o", made, "--json")
    assert code == 0, err
    answer, spec, base = json.loads(out), load_spec(str(made), HardwareSpec), load_spec("h100-80g", HardwareSpec)
    assert spec.efficiency.tiles is not None
    assert spec.node_link.bandwidth_bytes_per_s * spec.node_link.efficiency == pytest.approx(360e9, rel=1e-3)
    assert spec.node_link.latency_s == pytest.approx(2e-6, rel=1e-2)
    assert spec.memory_bytes == base.memory_bytes
    assert answer["products"]["held_out"] > 30
    assert answer["products"]["error"] < 0.035
    assert answer["left_out"] == {
        "products of fp8": 1,
        "collectives of kind alltoall over half": 1,
        "collectives of less than 1 MiB": 1,
    }
    assert "products.csv.gz" in spec.sources["efficiency.tiles"]
    assert "rings.csv" in spec.sources["node_link.efficiency"]
    assert spec.sources["memory"] == base.sources["memory"]
    code, out, err = gptplan("calibrate", "--kernels", tables[1], "--base", "h100-80g", "-o", tmp_path / "links.toml")
    assert code == 0, err
    assert "18 collectives" in out
    assert "360 GB/s" in out
    assert load_spec(str(tmp_path / "links.toml"), HardwareSpec).efficiency == base.efficiency


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        ("a,b\n1,2\n", (), "this is no table of kernels"),
        ("device,gemm_dtype,m,n,k,latency\nNVIDIA L4,bfloat16,1,1,1,1\n", (), "`--device`: NVIDIA L4"),
        (f"device,gemm_dtype,m,n,k,latency\n{H100},bfloat16,1,1,1,-1\n", (), "latency is -1, which has to be above 0"),
        (f"device,gemm_dtype,m,n,k,latency\n{H100},bfloat16,x,1,1,1\n", (), "kernels.csv:2"),
        (f"device,gemm_dtype,m,n,k,latency\n{H100},bfloat16,8,8,8,1\n", (), "cannot fit tiles: tiles need 100 shapes"),
        ("\0", (), "this is no table of kernels"),
        ("device\n", ("--devices", "1"), "--devices does not go with --kernels"),
    ],
)
def test_bad_tables_are_refused(
    gptplan: Run, tmp_path: Path, content: str, arguments: tuple[str, ...], expected: str
) -> None:
    path, made = tmp_path / "kernels.csv", tmp_path / "made.toml"
    path.write_text(content)
    given = ("--kernels", path, "--base", "h100-80g", "--multiprocessors", 132, *arguments)
    code, out, err = gptplan("calibrate", *given, "-o", made)
    assert (code, out) == (2, "")
    assert expected in err
    assert not made.exists()


def test_options_of_tables_go_with_tables(gptplan: Run, tmp_path: Path) -> None:
    code, _, err = gptplan("calibrate", "--device", "x", "-o", tmp_path / "made.toml")
    assert code == 2
    assert "--device goes with --kernels alone" in err
    code, _, err = gptplan("calibrate", "--kernels", tmp_path / "none.csv", "-o", tmp_path / "made.toml")
    assert code == 2
    assert "--base" in err


def test_a_damaged_archive_is_refused(gptplan: Run, tmp_path: Path) -> None:
    path = product_table(tmp_path / "kernels.csv.gz")
    content = bytearray(path.read_bytes())
    content[12:40] = b"\xff" * 28
    path.write_bytes(content)
    code, out, err = gptplan("calibrate", "--kernels", path, "--base", "h100-80g", "-o", tmp_path / "made.toml")
    assert (code, out) == (2, "")
    assert "cannot read the table" in err
