"""Damages valid configurations of other people, one thing at a time, so that what is caught can be counted.

Every operator makes a file that its framework refuses, or that trains another layout than its author wrote.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from planner.lint.dialects.megatron.keys import ELSEWHERE
from planner.lint.draft import UNDECIDED
from planner.lint.judging import Judged
from planner.lint.source import Unknown, Value

DEGREES = ("tensor_parallel", "pipeline_parallel", "context_parallel", "given_parallel")
COUNTS = (*DEGREES, "micro_batch", "num_heads", "num_layers", "layers", "global_batch", "batch_size", "train_batch")
NAMED = (
    *COUNTS,
    "hidden_size",
    "zero_stage",
    "sequence_parallel",
    "num_microbatches",
    "tensor_mode",
    "offload.optimizer",
)
LEAST_NAME = 8
"""Shorter keys are too alike to tell a mistake from another key."""
PRIME = 7919


@dataclass(frozen=True)
class Mutant:
    """A damaged text."""

    operator: str
    what: str
    text: str


@dataclass(frozen=True)
class _File:
    """A judged configuration and its text."""

    judged: Judged
    text: str
    draw: random.Random

    def value(self, name: str) -> tuple[str, Value] | None:
        """Key and value of a field or a fact, where the text can be changed."""
        draft = self.judged.draft
        key = draft.keys.get(name, "")
        value = draft.settings.get(key)
        if value is None or value.end <= value.start or isinstance(value.content, Unknown | dict):
            return None
        return key, value

    def number(self, name: str, default: int = 1) -> int:
        """A whole number that is known."""
        draft = self.judged.draft
        value = draft.fields.get(name, self.judged.facts.get(name))
        return default if value in (UNDECIDED, None) or not isinstance(value, int) else value

    def replaced(self, value: Value, new: str) -> str:
        """The text with another value."""
        return self.text[: value.start] + new + self.text[value.end :]


def mutants(judged: Judged, text: str, draw: random.Random) -> Iterator[Mutant]:
    """Every damage that fits a configuration."""
    file = _File(judged, text, draw)
    for operator in (_degrees, _words, _misspelt, _heads, _layers, _batches, _zero, _precisions, _missing):
        for what, mutant in operator(file):
            if mutant != text:
                yield Mutant(operator.__name__.lstrip("_"), what, mutant)


def _degrees(file: _File) -> Iterator[tuple[str, str]]:
    """A degree that divides no number of GPUs in question."""
    for name in DEGREES:
        unused = name == "pipeline_parallel" and "--no-pipeline-parallel" in file.text
        if (found := file.value(name)) and not unused:
            yield f"{found[0]} {PRIME}", file.replaced(found[1], str(PRIME))


def _words(file: _File) -> Iterator[tuple[str, str]]:
    """A word where a number belongs."""
    for name in COUNTS:
        if (found := file.value(name)) and type(found[1].content) is int:
            word = "four" if file.judged.draft.source.language in ("shell", "yaml") else '"four"'
            yield f"{found[0]} four", file.replaced(found[1], word)


def _misspelt(file: _File) -> Iterator[tuple[str, str]]:
    """A letter of a key that is left out, doubled, or exchanged with the next one."""
    for key in dict.fromkeys(file.judged.draft.keys.get(name, "") for name in NAMED):
        name = file.judged.draft.name(key).rpartition(".")[2]
        bare = name.lstrip("-")
        if len(bare) < LEAST_NAME or key not in file.judged.draft.settings:
            continue
        if file.judged.draft.dialect.name.endswith("Plugin") and bare.isupper():
            # A constant of the script, which no framework reads.
            continue
        at = file.draw.randrange(1, len(bare) - 2)
        kind = file.draw.randrange(3)
        wrong = (
            bare[:at] + bare[at + 1 :],
            bare[:at] + bare[at] + bare[at:],
            bare[:at] + bare[at + 1] + bare[at] + bare[at + 2 :],
        )[kind]
        if wrong != bare:
            yield (
                f"{bare} as {wrong}",
                re.sub(rf"(?<![\w-])(--)?{re.escape(bare)}(?=['\"]?[\s=:])", rf"\g<1>{wrong}", file.text),
            )


def _heads(file: _File) -> Iterator[tuple[str, str]]:
    """Heads that divide neither the hidden size nor the ranks."""
    hidden, degree = file.number("hidden_size", 0), file.number("tensor_parallel")
    found = None if "--kv-channels" in file.text else file.value("num_heads")
    if found is not None and type(found[1].content) is int and (hidden or degree > 1):
        near = range(found[1].content + 1, found[1].content + 90)
        heads = next((n for n in near if hidden % n and (degree == 1 or n % degree)), PRIME)
        yield f"{found[0]} {heads}", file.replaced(found[1], str(heads))


def _layers(file: _File) -> Iterator[tuple[str, str]]:
    """Layers that the stages do not divide, where they have to."""
    stages = file.number("pipeline_parallel")
    found = file.value("num_layers") or file.value("layers")
    even = file.judged.draft.dialect.name == "nemo" or "split_layers" in file.judged.facts
    even &= "--deepspeed" not in file.text
    if found is not None and stages > 1 and even and type(found[1].content) is int:
        yield f"{found[0]} + 1", file.replaced(found[1], str(found[1].content + 1))


def _batches(file: _File) -> Iterator[tuple[str, str]]:
    """A batch of a step that is no multiple of what the ranks take."""
    for name in ("global_batch", "train_batch"):
        found = file.value(name)
        written = file.value("micro_batch") is not None
        unit = (file.number("micro_batch") if written else 1) * file.number("data_parallel")
        if found is not None and unit > 1 and type(found[1].content) is int:
            yield f"{found[0]} + 1", file.replaced(found[1], str(found[1].content + 1))


def _zero(file: _File) -> Iterator[tuple[str, str]]:
    """ZeRO 3 beside a pipeline, and a stage that there is none of."""
    found = file.value("zero_stage")
    if found is None or type(found[1].content) is not int or file.judged.draft.dialect.name == "nanotron":
        return
    yield f"{found[0]} 7", file.replaced(found[1], "7")
    if file.number("pipeline_parallel") > 1 and file.judged.draft.dialect.name in PIPED_ZERO:
        yield f"{found[0]} 3", file.replaced(found[1], "3")


PIPED_ZERO = ("megatron", "gpt-neox", "deepspeed", "HybridParallelPlugin")
"""Dialects whose pipelines take no ZeRO 3."""


def _precisions(file: _File) -> Iterator[tuple[str, str]]:
    """Two precisions at once."""
    dialect = file.judged.draft.dialect.name
    if dialect == "megatron" and file.judged.draft.source.language == "shell":
        for option, other in (("--fp16", "--bf16"), ("--bf16", "--fp16")):
            if re.search(rf"(?m)^[^#\n]*{option}(?=\s)", file.text) and other not in file.text:
                yield f"{option} and {other}", re.sub(rf"{option}(?=\s)", f"{option} {other}", file.text)
    elif (
        dialect == "deepspeed" and re.search(r'"fp16":\s*\{\s*"enabled":\s*true', file.text) and "bf16" not in file.text
    ):
        yield "fp16 and bf16", file.text.replace('"fp16"', '"bf16": {"enabled": true},\n"fp16"', 1)


REQUIRED = {
    "megatron": ("micro_batch", "num_layers"),
    "gpt-neox": ("num_layers", "hidden_size", "num_heads"),
    "nanotron": ("tensor_parallel", "pipeline_parallel", "given_parallel", "micro_batch"),
    "nemo": ("num_layers", "hidden_size", "num_heads"),
    "colossalai-config": ("num_micro_batches",),
    "HybridParallelPlugin": ("tensor_parallel", "pipeline_parallel"),
}
"""Fields whose keys have no default."""


def _missing(file: _File) -> Iterator[tuple[str, str]]:
    """A key without a default that is not there."""
    draft = file.judged.draft
    for name in REQUIRED.get(draft.dialect.name, ()):
        found = file.value(name)
        idle = name == "num_micro_batches" and file.number("pipeline_parallel") == 1
        idle |= name == "num_layers" and any(option in file.text for option in ELSEWHERE)
        if found is None or idle or (draft.dialect.name == "megatron" and not _trains(file)):
            continue
        bare = re.escape(found[0].rpartition(".")[2].lstrip("-"))
        if draft.source.language == "shell":
            yield f"no {found[0]}", re.sub(rf"--{bare}[ =]+\S+", "", file.text)
        elif draft.source.language == "yaml":
            lines = file.text.splitlines(keepends=True)
            yield f"no {found[0]}", "".join(lines[: found[1].line - 1] + lines[found[1].line :])
        else:
            yield f"no {found[0]}", re.sub(rf"(?m)\b{bare}\s*=\s*[\w.]+\s*(,|$)", "", file.text, count=1)


def _trains(file: _File) -> bool:
    """Whether a script starts a training by Megatron-LM's options."""
    shell = file.judged.draft.source.language == "shell"
    return shell and bool(re.search(r"--train-(iters|samples)|--global-batch-size", file.text))
