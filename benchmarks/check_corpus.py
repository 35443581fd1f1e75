"""Checks every file of a corpus, damages the valid ones, compares readings, and prints what comes out by dialect.

``python -m benchmarks.check_corpus FOLDER... [--mutants 200] [--jail FOLDER] [--write]`` prints a line for each
dialect: files, verdicts, seconds, files with errors that benchmarks/true_errors.txt does not list, readings that the
file's own program does not share, and mutants caught. ``--errors`` prints every error, every reading of those and
every mutant that is missed; ``--write`` puts the table where docs/check.md takes it from.

Public repositories make a corpus; none is kept here. A file is judged for the GPUs that it names itself, else for the
product of its degrees and a few multiples; it is broken if one of its configurations is so for each of them.
"""

import argparse
import csv
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from benchmarks.mutants import mutants
from benchmarks.readings import misread
from planner.diagnostics import PlanError
from planner.lint.check import check_text, judged_of
from planner.lint.draft import UNDECIDED, Asked
from planner.lint.files import SUFFIXES, read_source, read_text
from planner.lint.judging import Judged
from planner.lint.reading import OPEN
from planner.lint.source import Source
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

TRUE_ERRORS = Path(__file__).with_name("true_errors.txt")
"""Endings of the paths of upstream files whose errors are real, with why, as they were judged against the source."""
TABLE = Path(__file__).parents[1] / "docs" / "check_corpus.csv"
MULTIPLES = (1, 2, 4, 8, 16, 3, 5, 6, 12, 64, 256)
"""Multiples of the product of the degrees that are tried, beside those that make micro batches whole."""
MAX_GPUS = 1_000_000


@cache
def hardware() -> HardwareSpec:
    """Cards that hold most."""
    return load_spec("h100-80g", HardwareSpec)


def asked(gpus: int) -> Asked:
    """The question about a file for some GPUs."""
    return Asked(gpus=gpus, hardware=hardware(), devices_per_node=8)


@dataclass(frozen=True)
class Outcome:
    """What became of a file, each configuration at the first count of GPUs at which it is valid."""

    dialect: str
    """In brackets, why the file was refused."""
    judged: tuple[Judged, ...] = ()
    gpus: tuple[int, ...] = ()

    @property
    def verdict(self) -> str:
        """One word."""
        if not self.judged:
            return "refused"
        if any(one.errors for one in self.judged):
            return "broken"
        findings = [found for one in self.judged for found in one.diagnostics]
        return "open" if any(found.severity == OPEN for found in findings) else "valid"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is counted of one file."""

    path: Path
    dialect: str
    verdict: str
    gpus: tuple[int, ...]
    seconds: float
    """Of one whole check, with suggestions and a prediction."""
    errors: tuple[str, ...]
    compared: bool
    misread: tuple[str, ...]


@dataclass
class Row:
    """What became of the files of one dialect."""

    files: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    unlisted: int = 0
    """Broken files that nobody has judged to be so upstream."""
    seconds: float = 0.0
    slowest_s: float = 0.0
    compared: int = 0
    misread: int = 0
    mutants: int = 0
    caught: int = 0
    operators: Counter[str] = field(default_factory=Counter)


def outcome_of(source: Source, gpus: int) -> Outcome:
    """A file judged for one count of GPUs."""
    try:
        found = judged_of(source, asked(gpus))
    except PlanError as error:
        return Outcome(f"({error.diagnostics[0].message[:70]})")
    return Outcome(found[0].draft.dialect.name, tuple(found), (gpus,) * len(found))


def read(text: str, path: Path) -> Source | Outcome:
    """A file as read, or why it is not."""
    try:
        return read_source(text, str(path))
    except PlanError as error:
        return Outcome(f"({error.diagnostics[0].message[:70]})")


def counts_of(one: Judged) -> Iterator[int]:
    """GPUs that a configuration may be for: what it starts, then multiples of its degrees."""
    facts, fields = one.facts, one.draft.fields

    def known(name: str, default: int = 1) -> int:
        value = fields.get(name, facts.get(name, default))
        return default if value in (UNDECIDED, None) else max(1, int(value))

    group = known("tensor_parallel") * known("pipeline_parallel") * known("context_parallel")
    experts = known("expert_parallel") * known("expert_tensor_parallel") * known("pipeline_parallel")
    group = math.lcm(group, experts) * known("given_parallel")
    yield from told(one)
    batch = facts.get("global_batch") or facts.get("train_batch") or 1
    replicas = batch // max(1, known("micro_batch")) // max(1, facts.get("accumulation") or 1)
    for multiple in dict.fromkeys((*MULTIPLES[:1], *((replicas,) if replicas > 1 else ()), *MULTIPLES[1:])):
        yield group * multiple


def told(one: Judged) -> tuple[int, ...]:
    """GPUs that a configuration names itself."""
    return tuple(int(one.facts[name]) for name in ("launched", "gpus_told") if name in one.facts)


def judged(source: Source | Outcome) -> Outcome:
    """A file judged for the GPUs that it may be for."""
    if isinstance(source, Outcome):
        return source
    first = outcome_of(source, 8)
    sound: dict[int, tuple[Judged, int]] = {n: (one, 8) for n, one in enumerate(first.judged)}
    tried = {8}
    for number, own in enumerate(first.judged):
        for gpus in counts_of(own):
            if gpus in tried or gpus > MAX_GPUS or (not sound[number][0].errors and gpus not in told(own)):
                continue
            tried.add(gpus)
            again = outcome_of(source, gpus).judged
            sound |= {n: (one, gpus) for n, one in enumerate(again) if n in sound and sound[n][0].errors}
    return Outcome(first.dialect, tuple(one for one, _ in sound.values()), tuple(gpus for _, gpus in sound.values()))


def checked(path: Path, jail: Path | None) -> Result:
    """All that is counted of one file but its mutants."""
    text = read_text(path, str(path))
    source = read(text, path)
    outcome = judged(source)
    compared: list[str] | None = None
    seconds = 0.0
    if outcome.judged and isinstance(source, Source):
        started = time.process_time()
        check_text(text, str(path), asked(outcome.gpus[0]), compare=False)
        seconds = time.process_time() - started
        compared = misread(source, outcome.dialect, path, jail)
    errors = [
        f"{gpus} {error.rule} {error.message} --> {error.location}"
        for one, gpus in zip(outcome.judged, outcome.gpus, strict=True)
        for error in one.errors
    ]
    return Result(
        path=path,
        dialect=outcome.dialect,
        verdict=outcome.verdict,
        gpus=outcome.gpus,
        seconds=seconds,
        errors=tuple(errors),
        compared=compared is not None,
        misread=tuple(compared or ()),
    )


def paths_of(folders: list[Path]) -> Iterator[Path]:
    """Every file of the folders that can be read as text."""
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file()):
            try:
                read_text(path, str(path))
            except PlanError:
                continue
            yield path


def true_errors() -> list[str]:
    """Endings of the paths of files whose errors are real."""
    lines = TRUE_ERRORS.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--errors", action="store_true", help="print every error, misreading and mutant that is missed")
    parser.add_argument("--mutants", type=int, default=0, help="valid files of each dialect that are damaged")
    parser.add_argument("--jail", type=Path, help="folder that benchmarks.readings has prepared; needs root")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="write the table that docs/check.md shows")
    options = parser.parse_args()
    rows: dict[str, Row] = defaultdict(Row)
    with ProcessPoolExecutor(options.jobs) as pool:
        results = pool.map(partial(checked, jail=options.jail), paths_of(options.folders), chunksize=4)
        sound = counted(rows, results, shown=options.errors)
        for dialect, paths in sorted(sound.items()):
            chosen = random.Random(0).sample(paths, min(len(paths), options.mutants))
            for path, tried in zip(chosen, pool.map(try_mutants, chosen), strict=True):
                count_mutants(rows[dialect], tried)
                for operator, what, caught in tried if options.errors else ():
                    print("" if caught else f"missed {dialect}: {operator} {what} ({path})\n", end="")
    report(rows)
    if options.write:
        write(rows)


def counted(rows: dict[str, Row], results: Iterable[Result], *, shown: bool) -> dict[str, list[Path]]:
    """Count every file; those of each dialect that are valid for one count of GPUs come back."""
    sound: dict[str, list[Path]] = defaultdict(list)
    known = tuple(true_errors())
    for result in results:
        listed = str(result.path).endswith(known)
        count(rows[result.dialect], result, listed=listed)
        if shown:
            show(result, listed=listed)
        if result.verdict in ("valid", "open") and len({*result.gpus}) == 1:
            sound[result.dialect].append(result.path)
    return sound


def count(row: Row, result: Result, *, listed: bool) -> None:
    """Add a file to its dialect."""
    row.files, row.seconds = row.files + 1, row.seconds + result.seconds
    row.slowest_s = max(row.slowest_s, result.seconds)
    row.verdicts[result.verdict] += 1
    row.unlisted += result.verdict == "broken" and not listed
    row.compared, row.misread = row.compared + result.compared, row.misread + bool(result.misread)


def count_mutants(row: Row, tried: list[tuple[str, str, bool]]) -> None:
    """Add the mutants of a file to its dialect."""
    for operator, _, caught in tried:
        row.mutants, row.caught = row.mutants + 1, row.caught + caught
        row.operators[f"{operator} {'caught' if caught else 'missed'}"] += 1


def show(result: Result, *, listed: bool) -> None:
    """Print what is wrong with a file, and what of it was read wrongly."""
    for error in result.errors:
        print(f"{'true' if listed else 'look'} {result.dialect} {error} ({result.path})")
    for reading in result.misread:
        print(f"misread {result.dialect} {reading} ({result.path})")


def try_mutants(path: Path) -> list[tuple[str, str, bool]]:
    """A file damaged in every way of its dialect: how, what, and whether it is called broken or refused."""
    text = read_text(path, str(path))
    outcome = judged(read(text, path))
    found = []
    for mutant in mutants(outcome.judged[0], text, random.Random(str(path.name))):
        source = read(mutant.text, path)
        again = source if isinstance(source, Outcome) else outcome_of(source, outcome.gpus[0])
        found.append((mutant.operator, mutant.what, again.verdict in ("broken", "refused")))
    return found


def report(rows: dict[str, Row]) -> None:
    """Print the table."""
    for dialect, row in sorted(rows.items(), key=lambda item: -item[1].files):
        counts = ", ".join(f"{name} {number}" for name, number in row.verdicts.most_common())
        times = f"{row.seconds:.1f} s, slowest {row.slowest_s:.2f} s"
        caught = f"; {row.caught} of {row.mutants} mutants caught" if row.mutants else ""
        read_as = f"; {row.misread} of {row.compared} misread" if row.compared else ""
        print(f"{dialect}: {row.files} files, {times}: {counts}; false alarms {row.unlisted}{read_as}{caught}")
        if row.mutants:
            print(f"    {', '.join(f'{name} {number}' for name, number in sorted(row.operators.items()))}")


def write(rows: dict[str, Row]) -> None:
    """Write the table of docs/check.md."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for dialect, row in sorted(rows.items()):
            if not dialect.startswith("("):
                counts = (row.files, row.verdicts["broken"], row.verdicts["open"], row.unlisted)
                slowest = f"{row.slowest_s:.2f}"
                writer.writerow((dialect, *counts, row.mutants, row.caught, row.compared, row.misread, slowest))


COLUMNS = (
    *("dialect", "files", "broken", "open", "false_alarms", "mutants", "caught", "compared", "misread", "slowest_s"),
)

if __name__ == "__main__":
    main()
