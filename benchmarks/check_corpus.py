"""Checks every file of a folder in one process and counts what comes out, so that false alarms can be reviewed.

``python -m benchmarks.check_corpus FOLDER --gpus 8 [--errors]`` prints a line for each dialect: files, verdicts, rules
broken, seconds. ``--mutants N`` also misspells keys and breaks numbers of N valid files and counts what is caught.
Public repositories make a corpus; none is kept here.
"""

import argparse
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from planner.diagnostics import PlanError
from planner.lint.check import Checked, check_text
from planner.lint.draft import Asked
from planner.lint.files import SUFFIXES, read_text
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec

DEGREES = (
    *(
        "tensor-model-parallel-size",
        "pipeline-model-parallel-size",
        "model_parallel_size",
        "pipe_parallel_size",
        "tp",
        "pp",
    ),
    *("context-parallel-size", "context_parallel_size", "ds-sequence-parallel-size"),
    *("tensor_parallel_degree", "pipeline_parallel_degree", "tp_size", "pp_size", "tensor_model_parallel_size"),
)
"""Keys that a mutant gives a degree that divides nothing, or misspells."""


@cache
def hardware() -> HardwareSpec:
    """Cards that hold most."""
    return load_spec("h100-80g", HardwareSpec)


@dataclass
class Row:
    """What became of the files of one dialect."""

    files: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0


COUNTS = (8, 16, 64, 256, 1024, 384)
"""GPUs that a file may be for, after the product of its degrees; it is broken if it is so for each of these."""


def launched(text: str) -> int:
    """The product of the degrees of a text."""
    product = 1
    for found in re.finditer(rf"\b(?:{'|'.join(DEGREES)})['\"]?\s*[:= ]\s*['\"]?(\d+)", text):
        product *= max(1, int(found[1][:4]))
    return min(product, 100_000)


def checked(path: Path, text: str, asked: Asked) -> tuple[str, list[Checked]]:
    """The dialect and the judgements of a text; without any, why it was refused."""
    try:
        found = check_text(text, str(path), asked, compare=False)
    except PlanError as error:
        return f"({error.diagnostics[0].message[:60]})", []
    return found[0].judged.draft.dialect.name, found


def verdict(found: list[Checked]) -> str:
    """One word for a file."""
    if not found:
        return "refused"
    if any(not one.valid for one in found):
        return "broken"
    return "open" if any(one.open for one in found) else "misfit" if any(one.misfits for one in found) else "valid"


def mutants(text: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Damaged texts with what was done to them."""
    for key in DEGREES:
        found = re.search(rf"(?<![\w-]){key}(['\"]?\s*[:= ]\s*['\"]?)(\d+)", text)
        if found:
            yield f"{key} 7919", text[: found.start(2)] + "7919" + text[found.end(2) :]
            if len(key) > 8:
                at = found.start() + draw.randrange(2, len(key) - 2)
                yield f"{key} misspelt", text[:at] + text[at + 1 :]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", type=int, help="else the product of the degrees of each file")
    parser.add_argument("--model")
    parser.add_argument("--errors", action="store_true", help="print every error")
    parser.add_argument("--mutants", type=int, default=0)
    options = parser.parse_args()
    model = load_spec(options.model, ModelSpec) if options.model else None
    rows: dict[str, Row] = defaultdict(Row)
    caught = Counter[str]()
    draw, left = random.Random(0), options.mutants
    for path in sorted(p for p in options.folder.rglob("*") if p.suffix in SUFFIXES and p.is_file()):
        try:
            text = read_text(path, str(path))
        except PlanError:
            continue
        counts = (options.gpus,) if options.gpus else (launched(text), *COUNTS)
        asked = [Asked(gpus=one, hardware=hardware(), devices_per_node=8, model=model) for one in counts]
        started = time.process_time()
        tried = [(checked(path, text, asked[0]), asked[0])]
        while verdict(tried[-1][0][1]) == "broken" and len(tried) < len(asked):
            tried.append((checked(path, text, asked[len(tried)]), asked[len(tried)]))
        seconds = (time.process_time() - started) / len(tried)
        best = tried[-1] if verdict(tried[-1][0][1]) != "broken" else tried[0]
        dialect, sound = review(best, seconds, rows, listed=options.errors)
        if left > 0 and sound:
            left -= 1
            for what, mutant in mutants(text, draw):
                outcome = verdict(checked(path, mutant, best[1])[1]) in ("broken", "refused")
                caught[f"{dialect}: {'caught' if outcome else 'missed'}"] += 1
                if not outcome and options.errors:
                    print(f"missed: {path}: {what}")
    report(rows, caught)


def review(
    tried: tuple[tuple[str, list[Checked]], Asked], seconds: float, rows: dict[str, Row], *, listed: bool
) -> tuple[str, bool]:
    """Count what comes out of a file; its dialect, and whether nothing is broken."""
    (dialect, found), asked = tried
    row = rows[dialect]
    row.files, row.seconds, row.slowest_s = row.files + 1, row.seconds + seconds, max(row.slowest_s, seconds)
    row.verdicts[verdict(found)] += 1
    for rule, message, place in {(str(e.rule), e.message, e.location) for one in found for e in one.judged.errors}:
        row.rules[rule] += 1
        if listed:
            print(f"{dialect} {asked.gpus} {rule} {message} --> {place}")
    return dialect, verdict(found) in ("valid", "open", "misfit")


def report(rows: dict[str, Row], caught: Counter[str]) -> None:
    """Print the table."""
    for dialect, row in sorted(rows.items(), key=lambda item: -item[1].files):
        counts = ", ".join(f"{name} {count}" for name, count in row.verdicts.most_common())
        broken = ", ".join(f"{name} {count}" for name, count in row.rules.most_common())
        print(f"{dialect}: {row.files} files, {row.seconds:.1f} s, slowest {row.slowest_s:.2f} s: {counts}; {broken}")
    for name, count in sorted(caught.items()):
        print(f"mutants of {name}: {count}")


if __name__ == "__main__":
    main()
