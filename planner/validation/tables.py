"""Tables of measured runs: CSV files of one of the known dialects, read as they are."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from planner.diagnostics import PlanError, usage_error
from planner.inputs import read_input
from planner.specs.files import did_you_mean

MAX_TABLE_BYTES = 64 * 1024**2
MAX_NUMBER = 10**15
"""Numbers beyond this in a cell are taken for a typing error."""
OUTPUT_COLUMNS = (
    "predicted_mem_gib",
    "predicted_step_s",
    "predicted_outcome",
    "skipped",
    "memory_error_pct",
    "step_error_pct",
    "predicted_step_s_low",
    "predicted_step_s_high",
    "predicted_mem_gib_low",
    "predicted_mem_gib_high",
    "fits_probability",
)
"""Columns that ``--out`` appends; a table may have them and they are not read."""


class Dialect(NamedTuple):
    """The columns of one kind of table."""

    name: str
    words: str
    """Its columns in the order of a new table; ``?`` marks one that a table may lack."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read or known."""
        return tuple(word.removesuffix("?") for word in self.words.split())

    @property
    def required(self) -> frozenset[str]:
        """Columns that a table has to have."""
        return frozenset(word for word in self.words.split() if not word.endswith("?"))


PUBLISHED = Dialect(
    "published",
    "id set model layers hidden heads seq_len gpu n_gpus tp pp dp micro_batch global_batch measured_step_s "
    "tokens_per_s_per_gpu measured_mem_gib mem_kind outcome source? params? kv_heads? ffn_hidden? vocab? gpu_mem_gb? "
    "gpus_per_node? interconnect? cp? vpp? zero_stage? sequence_parallel? recompute? offload? precision? "
    "flash_attention? measured_tflops_per_gpu? tflops_kind? measured_mfu? derived? verified? replay_missing? "
    "from_memory? note? ep? stack? dropout? stages_by_cost? pads_whole_vocab? blocking_launches? stage_read?",
)
RECORDED = Dialect(
    "recorded",
    "id set gpu n_gpus torch? colossalai? transformers? model layers hidden heads vocab seq_len plugin tp pp dp "
    "zero_stage pp_style? num_model_chunks? layers_per_stage? micro_batch batch_per_dp_rank global_batch recompute "
    "precision flash_attention? attn sequence_parallel? shard_param_frac? offload_optim_frac? optimizer? outcome "
    "step_s peak_allocated_mib_per_rank peak_reserved_mib_max? device_used_mib_max? after_boost_allocated_mib? "
    "fresh_process? gpus_per_node? kv_heads? ffn_hidden? tied_embeddings? dropout? compiled? recompute_pointwise? "
    "tensor_mode? tensor_depth? offload_param_frac? offload_tier? interconnect? stack?",
)
SEED = Dialect(
    "seed",
    "id set config model layers hidden heads vocab seq_len gpu gpu_mem_gb n_gpus tensor_mode tensor_parallel "
    "tensor_depth pipeline_parallel data_parallel zero_stage offload_tier batch_size num_microbatches recompute "
    "precision measured_mib_per_gpu outcome optimizer? note? "
    "interconnect? stack? dropout?",
)
DIALECTS = (PUBLISHED, RECORDED, SEED)


@dataclass(frozen=True)
class Row:
    """One line of a table: cells by column, and where it stands."""

    cells: dict[str, str]
    path: Path
    line: int

    @property
    def id(self) -> str:
        """The row's own name, or its line."""
        return self.text("id") or f"line {self.line}"

    @property
    def set_name(self) -> str:
        """The set that the row belongs to, or its table."""
        return self.text("set") or self.path.stem

    def in_set(self, name: str) -> "Row":
        """The row as one of another set."""
        return replace(self, cells=self.cells | {"set": name})

    def text(self, column: str) -> str:
        """The cell, empty where it is blank or the table lacks the column."""
        return self.cells.get(column, "").strip()

    def count(self, column: str) -> int | None:
        """A whole number of at least 1, or ``None`` where the cell is blank."""
        return self._whole(column, self.text(column), least=1)

    def whole(self, column: str) -> int | None:
        """A whole number of at least 0, or ``None`` where the cell is blank."""
        return self._whole(column, self.text(column), least=0)

    def needed_count(self, column: str) -> int:
        """A whole number of at least 1 that the row has to state."""
        value = self.count(column)
        if value is None:
            raise self.error(column, "the cell is empty", "fill it, or remove the row")
        return value

    def wholes(self, column: str) -> tuple[int, ...]:
        """Whole numbers of at least 0 separated by blanks, such as one for each rank."""
        values = (self._whole(column, text, least=0) for text in self.text(column).split())
        return tuple(value for value in values if value is not None)

    def number(self, column: str) -> float | None:
        """A number above 0, or ``None`` where the cell is blank."""
        return self._number(column, zero=False)

    def rate(self, column: str) -> float | None:
        """A number from 0 to 1, or ``None`` where the cell is blank."""
        value = self._number(column, zero=True)
        if value is not None and value > 1:
            raise self.error(column, f"`{self.text(column)}` is no share from 0 to 1", "write it like `0.5`")
        return value

    def fraction(self, column: str) -> float:
        """A number from 0 to 1; 0 where the cell is blank."""
        return self.rate(column) or 0.0

    def choice(self, column: str, known: Mapping[str, str] | Iterable[str]) -> str:
        """The cell's word, one of ``known``, or what it means by them; a blank cell stays empty."""
        text, meanings = self.text(column), known if isinstance(known, Mapping) else {word: word for word in known}
        if text and text not in meanings:
            raise self.error(column, f"`{text}` is not one of {', '.join(meanings)}", did_you_mean(text, meanings))
        return meanings.get(text, "")

    def error(self, column: str, message: str, hint: str) -> PlanError:
        """A user's mistake in one cell."""
        return usage_error(message, location=f"{self.path}:{self.line}: column {column}", hint=hint)

    def _whole(self, column: str, text: str, least: int) -> int | None:
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and least <= int(text) <= MAX_NUMBER):
            raise self.error(column, f"`{text}` is no whole number from {least} on", "write it like `8`")
        return int(text)

    def _number(self, column: str, *, zero: bool) -> float | None:
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (0 < value < MAX_NUMBER or (zero and value == 0)):
            raise self.error(column, f"`{text}` is no number above 0", "write it like `20.1`, without a unit")
        return value


@dataclass(frozen=True)
class Table:
    """A table that was read."""

    path: Path
    dialect: Dialect
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """Read one CSV file and recognise its dialect by its header.

    Raises:
        PlanError: the file cannot be read, its header is that of no dialect, or a line has too many
            or too few cells; the message says where.
    """
    lines = _lines(path)
    if not lines:
        raise usage_error("the table is empty", location=str(path), hint="its first line has to name the columns")
    header = tuple(name.strip() for name in lines[0][1])
    dialect = _dialect(path, header)
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise usage_error(
                f"the line has {len(cells)} cells and the header {len(header)}",
                location=f"{path}:{line}",
                hint="quote a cell that contains a comma",
            )
        rows.append(Row(dict(zip(header, cells, strict=True)), path, line))
    return Table(path, dialect, header, tuple(rows))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    hint = "name a CSV file of measured runs"
    content = read_input(path, what="table", most_bytes=MAX_TABLE_BYTES, hint=hint)
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        return [(reader.line_num, cells) for cells in reader if cells]
    except (csv.Error, UnicodeDecodeError) as error:
        raise usage_error(f"the table is not CSV: {error}", location=str(path)) from error


def _dialect(path: Path, header: tuple[str, ...]) -> Dialect:
    present = set(header)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise usage_error(f"the column {twice[0]} occurs twice", location=f"{path}:1")
    dialect = max(DIALECTS, key=lambda one: len(one.required & present) / len(one.required))
    missing = sorted(dialect.required - present)
    if len(missing) > len(dialect.required) // 2:
        raise usage_error(
            "the first line is no header of a table of measured runs",
            location=f"{path}:1",
            hint=f"its columns are, for example, {', '.join(sorted(PUBLISHED.required))}",
        )
    unknown = sorted(present - {*dialect.columns, *OUTPUT_COLUMNS})
    if unknown:
        near = did_you_mean(unknown[0], missing or dialect.columns)
        raise usage_error(
            f"unknown column `{unknown[0]}`",
            location=f"{path}:1",
            hint=near or f"the columns are {', '.join(sorted(dialect.columns))}",
        )
    if missing:
        raise usage_error(f"the column {missing[0]} is missing", location=f"{path}:1")
    return dialect
