"""The manifest of a checkpoint: what was saved, where each tensor is, and the digest of every file.

It is written last, so that a folder with a manifest is a whole checkpoint. Its own digest covers all other fields.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.plans.plan import canonical_json, content_digest
from planner.specs import ModelSpec, Precision
from planner.specs.files import from_builtins, to_builtins

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INDEX = "model.safetensors.index.json"
DAMAGED, OTHER_MODEL = "CKP002", "CKP003"
MOST_MANIFEST_BYTES = 2**28

Kind = Literal["model", "exp_avg", "exp_avg_sq"]
KINDS: tuple[Kind, ...] = ("model", "exp_avg", "exp_avg_sq")
"""What is saved of a parameter: its weight and the two moments of AdamW, each as a whole float32 tensor."""
WEIGHTS = KINDS[0]

NotNegative = Annotated[int, Meta(ge=0)]


class TensorFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file in safetensors' format."""

    kind: Kind
    num_bytes: NotNegative = msgspec.field(name="bytes")
    sha256: str
    tensors: dict[str, tuple[int, ...]]
    """Hugging Face name of each parameter to its whole shape."""


class LossScale(msgspec.Struct, frozen=True, kw_only=True):
    """The three numbers that the loss scale of fp16 goes on from."""

    scale: float
    growth_step: int
    """Steps without an overflow since the scale was last changed."""
    hysteresis_step: int
    """Overflows that the scale has borne."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a run that goes on has to know beside the tensors."""

    step: NotNegative
    """Training steps that are done."""
    consumed_sequences: NotNegative
    """Sequences of the data that they took."""
    optimizer_step: NotNegative
    """Updates of the weights: fewer than steps where fp16 overflowed. Without any there are no moments."""
    loss_scale: LossScale | None = None
    """Of fp16; ``None`` in other precisions."""
    seed: int
    precision: Precision
    model: ModelSpec
    plan_digest: str
    job_digest: str = ""
    skipped_steps: tuple[int, ...] = ()
    """Steps whose data was passed over."""
    gptplan_version: str
    versions: dict[str, str]
    """Of the libraries that trained."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a checkpoint says of itself."""

    format_version: int = FORMAT_VERSION
    facts: Facts
    files: dict[str, TensorFile]
    digest: str = ""

    @property
    def num_bytes(self) -> int:
        """Of all tensor files."""
        return sum(file.num_bytes for file in self.files.values())

    def names(self, kind: Kind) -> dict[str, str]:
        """Parameters of which there is a tensor of a kind, each with its file."""
        return {tensor: name for name, file in self.files.items() if file.kind == kind for tensor in file.tensors}


def encode(manifest: Manifest) -> bytes:
    """The manifest as a file, with its digest filled in."""
    fields = to_builtins(msgspec.structs.replace(manifest, digest=""))
    return canonical_json({**fields, "digest": content_digest(fields)})


def index(manifest: Manifest) -> bytes:
    """Which file holds which weight, as Transformers looks it up."""
    total = sum(file.num_bytes for file in manifest.files.values() if file.kind == WEIGHTS)
    return canonical_json({"metadata": {"total_size": total}, "weight_map": manifest.names(WEIGHTS)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint and judge whether it is as it was written.

    Raises:
        PlanError: with exit code 2 if there is none, with 1 if it was changed, cut off, or is of another format.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise damaged(path, "the manifest is larger than any that gptplan writes")
        fields = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise usage_error(
            f"this is no complete checkpoint, for its manifest cannot be read: {error.strerror}", location=str(path)
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, f"the manifest is no whole JSON document: {error}") from error
    if not isinstance(fields, dict) or fields.get("format_version") != FORMAT_VERSION:
        found = fields.get("format_version") if isinstance(fields, dict) else None
        raise damaged(path, f"the checkpoint has format {found}, this gptplan reads format {FORMAT_VERSION}")
    if fields.get("digest") != content_digest(fields):
        raise damaged(path, "the manifest was changed after gptplan wrote it")
    try:
        manifest = from_builtins(fields, Manifest)
    except (msgspec.ValidationError, ValueError) as error:
        raise damaged(path, f"the manifest does not have the fields of its format: {error}") from error
    if elsewhere := [name for name in manifest.files if Path(name).name != name]:
        raise damaged(path, f"the manifest names a file outside of its folder: {elsewhere[0]}")
    return manifest


EARLIER_ONE = "resume from an earlier checkpoint of the run: name its folder with `--resume FOLDER`"


def damaged(where: Path, message: str, hint: str = EARLIER_ONE) -> PlanError:
    """What is wrong with a checkpoint that was once whole."""
    return _negative(Diagnostic(rule=DAMAGED, message=message, location=str(where), hint=hint))


def _negative(*found: Diagnostic) -> PlanError:
    return PlanError(*found, exit_code=ExitCode.NEGATIVE)


NOT_ARCHITECTURE = {"name", "title", "seq_len", "global_batch", "precision", "dropout", "sources"}
"""Fields of a model spec that change no tensor."""


def check_model(facts: Facts, model: ModelSpec, folder: Path) -> None:
    """Refuse a checkpoint of a model with other tensors.

    Raises:
        PlanError: with one diagnostic that names every field that differs.
    """
    differing = [
        f"{name}: {_text(getattr(facts.model, name))} in the checkpoint, {_text(getattr(model, name))} in the plan"
        for name in model.__struct_fields__
        if name not in NOT_ARCHITECTURE and getattr(facts.model, name) != getattr(model, name)
    ]
    if differing:
        raise _negative(
            Diagnostic(
                rule=OTHER_MODEL,
                message=f"the checkpoint is of another model than the plan's: {len(differing)} fields differ",
                location=str(folder),
                detail="\n".join(differing),
                hint=f"resume under a plan of `{facts.model.name}` with these fields",
            )
        )


def _text(value: object) -> str:
    return str(to_builtins(value))


def check_tensors(manifest: Manifest, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Refuse a checkpoint whose tensors are not, each once and whole, those of the model.

    Raises:
        PlanError: with the first ones that are missing, too many, or of another shape.
    """
    kinds = KINDS if manifest.facts.optimizer_step else (WEIGHTS,)
    wrong = [text for kind in kinds for text in _wrong_tensors(manifest, kind, shapes)]
    if wrong:
        shown = "\n".join(wrong[:10]) + (f"\nand {len(wrong) - 10} more" if len(wrong) > 10 else "")  # noqa: PLR2004
        message = f"{len(wrong)} tensors of the checkpoint are not those of the model"
        raise _negative(Diagnostic(rule=OTHER_MODEL, message=message, location=str(folder), detail=shown))


def _wrong_tensors(manifest: Manifest, kind: Kind, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    found: dict[str, tuple[int, ...]] = {}
    for file in manifest.files.values():
        for name, shape in file.tensors.items() if file.kind == kind else ():
            if name in found:
                yield f"{kind} of {name} is there twice"
            found[name] = shape
    for name in sorted(shapes.keys() | found.keys()):
        if name not in found:
            yield f"{kind} of {name} is missing"
        elif name not in shapes:
            yield f"{kind} of {name} belongs to no parameter of the model"
        elif tuple(found[name]) != tuple(shapes[name]):
            yield f"{kind} of {name} has shape {list(found[name])}, the model's is {list(shapes[name])}"
