"""A hardware spec from tables of single kernels that others measured: matrix products and collectives of one node."""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from planner.calibration.hardware import Origin, link_fields
from planner.calibration.tiles import TileFit, fit_tiles
from planner.diagnostics import usage_error
from planner.handover.measurements import Collective, CollectiveKind, Product
from planner.inputs import read_input
from planner.launch.machine import is_named
from planner.specs import HardwareSpec, Precision

MAX_TABLE_BYTES = 256 * 1024**2
"""Of a table after it was decompressed."""
LEAST_COLLECTIVE_BYTES = 1024**2
"""Smaller ones run other protocols, and a training step has few of them."""
_PRECISIONS: dict[str, Precision] = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16"}
_ELEMENT_BYTES = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4, "int8": 1}
_KINDS: dict[str, CollectiveKind] = {
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "all-gather",  # the same ring steps the other way
}


class Kernels(NamedTuple):
    """What the tables say of one device."""

    products: tuple[Product, ...]
    collectives: tuple[Collective, ...]
    left_out: dict[str, int]
    """Reason to the number of rows that were not used."""


class Derived(NamedTuple):
    """The spec, and how far it was from what it was made of."""

    spec: HardwareSpec
    kernels: Kernels
    tiles: TileFit | None
    """``None`` where the tables have no matrix products of the device."""


def read_kernels(tables: Sequence[Path], device: str | None, base: HardwareSpec) -> Kernels:
    """Rows of a device out of tables of matrix products and of collectives, ``.csv`` or ``.csv.gz``.

    Columns of products: ``device``, ``gemm_dtype``, ``m``, ``n``, ``k``, ``latency`` in ms. Of collectives:
    ``device``, ``op_name``, ``nccl_dtype``, ``num_gpus``, ``message_size`` in elements, ``latency`` in ms.

    Args:
        tables: the files.
        device: the device as the tables call it; ``None``: every one that ``base`` names.
        base: the spec of the card.

    Raises:
        PlanError: a file cannot be read, is no such table, or has nothing of the device.
    """
    products: list[Product] = []
    collectives: list[Collective] = []
    left_out: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for table in tables:
        for line, row in _rows(table):
            name = row.get("device", "")
            seen[name] += 1
            if not (name == device if device is not None else is_named(name, base)):
                continue
            found = _read(row, table, line)
            if isinstance(found, Product):
                products.append(found)
            elif isinstance(found, Collective):
                collectives.append(found)
            else:
                left_out[found] += 1
    if not products and not collectives:
        wanted = device if device is not None else base.title
        raise usage_error(
            f"the tables have nothing of {wanted} that a spec can be made of",
            location=", ".join(map(str, tables)),
            hint=f"name one of their devices with `--device`: {', '.join(sorted(filter(None, seen))) or 'none'}",
        )
    return Kernels(tuple(products), tuple(collectives), dict(left_out))


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    hint = f"its columns are {_COLUMNS}"
    content = read_input(table, what="table", most_bytes=MAX_TABLE_BYTES, hint=hint)
    try:
        if table.suffix == ".gz":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(MAX_TABLE_BYTES + 1)
        text = content.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise usage_error(f"cannot read the table: {error}", location=str(table)) from error
    if len(content) > MAX_TABLE_BYTES:
        raise usage_error("the table is larger than 256 MiB", location=str(table))
    reader = csv.DictReader(io.StringIO(text))
    if not any(_PARSERS[kind][0] <= set(reader.fieldnames or ()) for kind in _PARSERS):
        raise usage_error("this is no table of kernels", location=str(table), hint=hint)
    yield from enumerate(reader, start=2)


def _read(row: dict[str, str], table: Path, line: int) -> Product | Collective | str:
    """The kernel of a row, or why it is left out."""
    parse = next(parse for columns, parse in _PARSERS.values() if columns <= set(row))
    try:
        return parse(row)
    except ValueError as error:
        raise usage_error(f"the row is not valid: {error}", location=f"{table}:{line}") from error


def _number(row: dict[str, str], column: str) -> float:
    value = float(row[column])
    if not 0 < value < float("inf"):
        raise ValueError(f"{column} is {row[column]}, which has to be above 0")
    return value


def _product(row: dict[str, str]) -> Product | str:
    precision = _PRECISIONS.get(row["gemm_dtype"])
    if precision is None:
        return f"products of {row['gemm_dtype']}"
    m, n, k = (int(_number(row, column)) for column in ("m", "n", "k"))
    return Product(precision=precision, m=m, n=n, k=k, seconds=_number(row, "latency") / 1e3)


def _collective(row: dict[str, str]) -> Collective | str:
    kind, element = _KINDS.get(row["op_name"]), _ELEMENT_BYTES.get(row["nccl_dtype"])
    if kind is None or element is None:
        return f"collectives of kind {row['op_name']} over {row['nccl_dtype']}"
    num_bytes = int(_number(row, "message_size")) * element
    if num_bytes < LEAST_COLLECTIVE_BYTES:
        return "collectives of less than 1 MiB"
    size = int(_number(row, "num_gpus"))
    return Collective(kind=kind, size=size, num_bytes=num_bytes, seconds=_number(row, "latency") / 1e3)


_PARSERS: dict[str, tuple[set[str], Callable[[dict[str, str]], Product | Collective | str]]] = {
    "products": ({"device", "gemm_dtype", "m", "n", "k", "latency"}, _product),
    "collectives": ({"device", "op_name", "nccl_dtype", "num_gpus", "message_size", "latency"}, _collective),
}
_COLUMNS = " or ".join(f"{', '.join(sorted(columns))} ({kind})" for kind, (columns, _) in _PARSERS.items())


def derive(kernels: Kernels, origin: Origin, multiprocessors: int | None, tables: Sequence[Path]) -> Derived:
    """The base spec with tiles and the link of a node as the kernels have them, each with its source.

    Raises:
        PlanError: there are too few products, or nobody says how many multiprocessors the device has.
    """
    base = origin.base
    values: dict[str, Any] = {"name": origin.name, "title": f"{base.title}, from measured kernels"}
    sources: dict[str, str] = {}
    names = ", ".join(table.name for table in tables)
    fit = None
    if kernels.products:
        fit = _fit(kernels.products, base, multiprocessors)
        values["efficiency"] = msgspec.structs.replace(base.efficiency, tiles=fit.tiles)
        of = f"{len(kernels.products)} products in {names}: {fit.fitted} shapes fitted, {fit.held_out} held out"
        sources["efficiency.tiles"] = f"{of}, whose mean error is {fit.error:.1%}, 95 in 100 below {fit.worst:.1%}"
    link = link_fields(kernels.collectives, base.device, origin)
    gone = ("efficiency.tiles",) * bool(fit) + ("node_link.start",) * bool(link.values)
    taken = {key: text for key, text in base.sources.items() if not key.startswith(gone)} if gone else base.sources
    found = {key: f"{text}, in {names}" for key, text in link.sources.items()}
    spec = msgspec.structs.replace(base, **values, **link.values, sources=taken | sources | found)
    return Derived(spec, kernels, fit)


def _fit(products: Sequence[Product], base: HardwareSpec, multiprocessors: int | None) -> TileFit:
    known = base.efficiency.tiles.multiprocessors if base.efficiency.tiles else None
    number = multiprocessors or known
    if number is None:
        raise usage_error(
            f"hardware spec {base.name} does not say how many multiprocessors the device has",
            location="--multiprocessors",
            hint="its datasheet or whitepaper does, such as `--multiprocessors 132` for H100",
        )
    main = Counter(one.precision for one in products).most_common(1)[0][0]
    try:
        return fit_tiles([one for one in products if one.precision == main], number, base.peak_flops_per_s[main])
    except (ValueError, KeyError) as error:
        raise usage_error(f"cannot fit tiles: {error}", location="--kernels") from error
