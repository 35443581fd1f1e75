"""``tokenize``: text to memory-mapped tokens."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Force, Json, print_json
from planner.diagnostics import ExitCode, usage_error
from planner.handover.options import Option, Range
from planner.outputs import STDOUT, tell


class Tokenize(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``tokenize``."""

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "Files, folders or patterns of text, JSONL (also .gz and .zst), Parquet or Arrow.",
            metavar="INPUT...",
            is_argument=True,
        ),
    ]
    output: Annotated[
        Path, Option("What to write: PREFIX.bin, PREFIX.idx and PREFIX.json.", ("-o", "--output"), metavar="PREFIX")
    ]
    tokenizer: Annotated[
        str, Option("A Hugging Face tokenizer.json or its folder, tiktoken's gpt2.tiktoken, or `bytes`.")
    ] = "bytes"
    end_of_document: Annotated[
        str, Option("Token after each document, as text. [default: what the tokenizer says]")
    ] = ""
    field: Annotated[str, Option("Where a record has its text.")] = "text"
    workers: Annotated[int | None, Option("Processes. [default: one a core]", range=Range(example="2"))] = None
    force: Force = False
    as_json: Json = False


def tokenize(options: Tokenize) -> int:
    """Turn text into Megatron-LM's .bin and .idx, by all cores; the same command goes on after an interruption."""
    from planner.data.inputs import find
    from planner.data.tokenizers import load_tokenizer
    from planner.data.tokenizing import How, recipe_of_files
    from planner.data.tokenizing import tokenize as write_tokens
    from planner.views import data as data_view
    from planner.views.terminal import counting

    if options.output == STDOUT:
        raise usage_error(
            "tokens are several files", location="-o -", hint="name their common beginning, as `-o corpus`"
        )
    tokenizer = load_tokenizer(options.tokenizer, options.end_of_document)
    found = [find(path) for path in options.inputs]
    recipe = recipe_of_files([file for one in found for file in one.files], options.field, tokenizer)
    prefix = options.output.with_suffix("") if options.output.suffix in (".bin", ".idx") else options.output
    with counting("tokenizing") as progress:
        manifest = write_tokens(recipe, prefix, tokenizer, How(options.workers, options.force), progress)
    if options.as_json:
        print_json({"prefix": str(prefix), **msgspec.to_builtins(manifest)})
        return ExitCode.OK
    for line in data_view.tokenized(manifest, sum(one.passed_over for one in found)):
        tell(line)
    tell(f"tokens: {prefix}.bin, {prefix}.idx")
    return ExitCode.OK
