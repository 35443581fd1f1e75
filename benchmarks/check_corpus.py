"""Checks every file of a corpus in one process, damages the valid ones, and prints what comes out by dialect.

``python -m benchmarks.check_corpus FOLDER... [--mutants 200] [--write]`` prints a line for each dialect: files,
verdicts, seconds, files with errors that benchmarks/true_errors.txt does not list, and mutants caught. ``--errors``
prints every error and every mutant that is missed; ``--write`` puts the table where docs/check.md takes it from.

Public repositories make a corpus; none is kept here. A file is judged for the GPUs that it names itself, else for the
product of its degrees and a few multiples; it is broken if one of its configurations is so for each of them.
"""

import argparse
import csv
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.mutants import mutants
from planner.diagnostics import PlanError
from planner.lint.check import Checked, check_text
from planner.lint.draft import UNDECIDED, Asked
from planner.lint.files import SUFFIXES, read_text
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

TRUE_ERRORS = Path(__file__).with_name("true_errors.txt")
"""Endings of the paths of upstream files whose errors are real, with why, as they were judged against the source."""
TABLE = Path(__file__).parents[1] / "docs" / "check_corpus.csv"
MULTIPLES = (1, 2, 4, 8, 16, 3, 5, 6, 12, 64, 256)
MAX_GPUS = 1_000_000
"""Multiples of the product of the degrees that are tried, beside those that make micro batches whole."""


@cache
def hardware() -> HardwareSpec:
    """Cards that hold most."""
    return load_spec("h100-80g", HardwareSpec)


@dataclass(frozen=True)
class Outcome:
    """What became of a file, each configuration at the first count of GPUs at which it is valid."""

    dialect: str
    """In brackets, why the file was refused."""
    checked: tuple[Checked, ...] = ()
    gpus: tuple[int, ...] = ()

    @property
    def verdict(self) -> str:
        """One word."""
        if not self.checked:
            return "refused"
        if any(not one.valid for one in self.checked):
            return "broken"
        return "open" if any(one.open for one in self.checked) else "valid"


@dataclass
class Row:
    """What became of the files of one dialect."""

    files: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    unlisted: int = 0
    """Broken files that nobody has judged to be so upstream."""
    seconds: float = 0.0
    slowest_s: float = 0.0
    mutants: int = 0
    caught: int = 0
    operators: Counter[str] = field(default_factory=Counter)


def at_gpus(path: Path, text: str, gpus: int) -> Outcome:
    """A text judged for one count of GPUs."""
    asked = Asked(gpus=gpus, hardware=hardware(), devices_per_node=8)
    try:
        found = check_text(text, str(path), asked, compare=False)
    except PlanError as error:
        return Outcome(f"({error.diagnostics[0].message[:70]})")
    return Outcome(found[0].judged.draft.dialect.name, tuple(found), (gpus,) * len(found))


def counts_of(one: Checked) -> Iterator[int]:
    """GPUs that a configuration may be for: what it starts, then multiples of its degrees."""
    facts, fields = one.judged.facts, one.judged.draft.fields

    def known(name: str, default: int = 1) -> int:
        value = fields.get(name, facts.get(name, default))
        return default if value in (UNDECIDED, None) else max(1, int(value))

    group = known("tensor_parallel") * known("pipeline_parallel") * known("context_parallel")
    experts = known("expert_parallel") * known("expert_tensor_parallel") * known("pipeline_parallel")
    group = math.lcm(group, experts) * known("given_parallel")
    for name in ("launched", "gpus_told"):
        if name in facts:
            yield int(facts[name])
    batch = facts.get("global_batch") or facts.get("train_batch") or 1
    replicas = batch // max(1, known("micro_batch")) // max(1, facts.get("accumulation") or 1)
    for multiple in dict.fromkeys((*MULTIPLES[:1], *((replicas,) if replicas > 1 else ()), *MULTIPLES[1:])):
        yield group * multiple


def judged(path: Path, text: str) -> Outcome:
    """A text judged for the GPUs that it may be for."""
    first = at_gpus(path, text, 8)
    sound: dict[int, tuple[Checked, int]] = {n: (one, 8) for n, one in enumerate(first.checked)}
    tried = {8}
    for number in range(len(first.checked)):
        for gpus in counts_of(first.checked[number]):
            if gpus in tried or gpus > MAX_GPUS or (sound[number][0].valid and gpus not in told(first.checked[number])):
                continue
            tried.add(gpus)
            again = at_gpus(path, text, gpus).checked
            sound |= {n: (one, gpus) for n, one in enumerate(again) if n in sound and not sound[n][0].valid}
    return Outcome(first.dialect, tuple(one for one, _ in sound.values()), tuple(gpus for _, gpus in sound.values()))


def told(one: Checked) -> tuple[int, ...]:
    """GPUs that a configuration names itself."""
    return tuple(int(one.judged.facts[name]) for name in ("launched", "gpus_told") if name in one.judged.facts)


def texts_of(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Every file of the folders that can be read as text."""
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file()):
            try:
                yield path, read_text(path, str(path))
            except PlanError:
                continue


def true_errors() -> list[str]:
    """Endings of the paths of files whose errors are real."""
    lines = TRUE_ERRORS.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--errors", action="store_true", help="print every error, and every mutant that is missed")
    parser.add_argument("--mutants", type=int, default=0, help="valid files of each dialect that are damaged")
    parser.add_argument("--write", action="store_true", help="write the table that docs/check.md shows")
    options = parser.parse_args()
    rows: dict[str, Row] = defaultdict(Row)
    sound: dict[str, list[Path]] = defaultdict(list)
    known = tuple(true_errors())
    for path, text in texts_of(options.folders):
        started = time.process_time()
        outcome = judged(path, text)
        row = rows[outcome.dialect]
        seconds = (time.process_time() - started) / max(1, len({*outcome.gpus}))
        row.files, row.seconds, row.slowest_s = row.files + 1, row.seconds + seconds, max(row.slowest_s, seconds)
        row.verdicts[outcome.verdict] += 1
        listed = str(path).endswith(known)
        row.unlisted += outcome.verdict == "broken" and not listed
        if options.errors and outcome.verdict == "broken":
            show_errors(path, outcome, listed=listed)
        if outcome.verdict in ("valid", "open") and len({*outcome.gpus}) == 1:
            sound[outcome.dialect].append(path)
    draw = random.Random(0)
    for dialect, paths in sorted(sound.items()):
        for path in draw.sample(paths, min(len(paths), options.mutants)):
            try_mutants(path, rows[dialect], draw, listed=options.errors)
    report(rows)
    if options.write:
        write(rows)


def show_errors(path: Path, outcome: Outcome, *, listed: bool) -> None:
    """Print what is wrong with a file."""
    for one, gpus in zip(outcome.checked, outcome.gpus, strict=True):
        for error in one.judged.errors:
            word = "true" if listed else "look"
            print(f"{word} {outcome.dialect} {gpus} {error.rule} {error.message} --> {error.location} ({path})")


def try_mutants(path: Path, row: Row, draw: random.Random, *, listed: bool) -> None:
    """Damage a file in every way of its dialect, and count what is called broken or refused."""
    text = read_text(path, str(path))
    outcome = judged(path, text)
    for mutant in mutants(outcome.checked[0].judged, text, draw):
        verdict = at_gpus(path, mutant.text, outcome.gpus[0]).verdict
        caught = verdict in ("broken", "refused")
        row.mutants += 1
        row.caught += caught
        row.operators[f"{mutant.operator} {'caught' if caught else 'missed'}"] += 1
        if listed and not caught:
            print(f"missed {outcome.dialect} {outcome.gpus[0]}: {mutant.operator} {mutant.what} ({path})")


def report(rows: dict[str, Row]) -> None:
    """Print the table."""
    for dialect, row in sorted(rows.items(), key=lambda item: -item[1].files):
        counts = ", ".join(f"{name} {count}" for name, count in row.verdicts.most_common())
        times = f"{row.seconds:.1f} s, slowest {row.slowest_s:.2f} s"
        caught = f"; {row.caught} of {row.mutants} mutants caught" if row.mutants else ""
        print(f"{dialect}: {row.files} files, {times}: {counts}; false alarms {row.unlisted}{caught}")
        if row.mutants:
            print(f"    {', '.join(f'{name} {count}' for name, count in sorted(row.operators.items()))}")


def write(rows: dict[str, Row]) -> None:
    """Write the table of docs/check.md, whose last two columns a person fills after reading a sample."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        sampled = {row["dialect"]: row for row in csv.DictReader(file)}
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for dialect, row in sorted(rows.items()):
            if not dialect.startswith("("):
                read = sampled.get(dialect, {})
                counts = (row.files, row.verdicts["broken"], row.verdicts["open"], row.unlisted)
                writer.writerow(
                    (dialect, *counts, row.mutants, row.caught, read.get("compared", 0), read.get("misread", 0))
                )


COLUMNS = ("dialect", "files", "broken", "open", "false_alarms", "mutants", "caught", "compared", "misread")

if __name__ == "__main__":
    main()
