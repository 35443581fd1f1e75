"""``sample`` and ``export-weights``: what a run has learned."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from planner.handover.options import Option
from planner.handover.work import SampleOptions
from planner.outputs import say

Checkpoint = Annotated[
    Path, Option("A checkpoint, or the folder of a run, whose newest is taken.", metavar="CHECKPOINT", is_argument=True)
]


class Sample(SampleOptions, frozen=True, kw_only=True):
    """The options of ``sample``."""

    checkpoint: Checkpoint


def sample(options: Sample) -> int:
    """Write some text with the weights of a checkpoint, on one process."""
    from planner.checkpoints.folders import check_files, find_checkpoint
    from planner.checkpoints.manifest import read_manifest
    from planner.data.tokenizers import load_tokenizer
    from planner.jobs.sources import check_vocabulary
    from planner.launch.processes import execute, sampling

    checkpoint = find_checkpoint(options.checkpoint)
    manifest = read_manifest(checkpoint)
    check_files(checkpoint, manifest, ())
    tokenizer = options.tokenizer or _tokenizer_of(checkpoint)
    check_vocabulary(load_tokenizer(str(tokenizer)), manifest.facts.model)
    fields = {name: getattr(options, name) for name in SampleOptions.__struct_fields__} | {"tokenizer": tokenizer}
    return execute(sampling(checkpoint, SampleOptions(**fields))).code


def _tokenizer_of(checkpoint: Path) -> Path:
    from planner.data.tokenizers import BYTES
    from planner.diagnostics import usage_error
    from planner.jobs.reading import tokenizer_beside

    found = tokenizer_beside(checkpoint)
    if found is None:
        raise usage_error(
            "no job is in the folder of this checkpoint's run, which would say what its tokens are",
            location=str(checkpoint),
            hint=f"name the tokenizer with `--tokenizer PATH`, or `--tokenizer {BYTES}`: every byte is a token",
        )
    return found


class ExportWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``export-weights``."""

    checkpoint: Checkpoint
    output: Annotated[Path, Option("A new folder.", ("-o", "--output"), metavar="FOLDER")]
    to: Annotated[Literal["hf"], Option("For whom: `hf`, Hugging Face Transformers.", reads=str)] = "hf"
    tokenizer: Annotated[
        Path | None,
        Option(
            "A tokenizer.json or its folder, which goes with the weights. [default: that of the run, if it has one]"
        ),
    ] = None


def export_weights(options: ExportWeights) -> int:
    """Write the weights of a checkpoint as a folder that Transformers loads, in float32."""
    from planner.checkpoints.exporting import export_weights as export
    from planner.checkpoints.folders import find_checkpoint
    from planner.data.tokenizers import BYTES
    from planner.diagnostics import usage_error
    from planner.jobs.reading import tokenizer_beside

    if options.to != "hf":
        raise usage_error(f"there is no export to `{options.to}`", location="--to", hint="use `--to hf`")
    checkpoint = find_checkpoint(options.checkpoint)
    own = tokenizer_beside(checkpoint)
    has_one = own is not None and str(own) != BYTES
    export(checkpoint, options.output, options.tokenizer or (own if has_one else None))
    say(f"the weights of {checkpoint} are in {options.output}")
    return 0
