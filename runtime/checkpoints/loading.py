"""Loading a checkpoint into any layout of the same model; a rank reads no more than it holds."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open

from planner.checkpoints.exporting import SINGLE_FILE, heads_in, weights_in
from planner.checkpoints.folders import check_files
from planner.checkpoints.manifest import (
    KINDS,
    OTHER_MODEL,
    WEIGHTS,
    Manifest,
    check_model,
    check_tensors,
    damaged,
    read_manifest,
)
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from runtime.checkpoints.engines import held_states, use_loaded
from runtime.checkpoints.held import Held
from runtime.checkpoints.tensor_file import TensorReader
from runtime.engines.engine import Engine
from runtime.exchange import of_everyone
from runtime.states.loss_scale import write_loss_scale


class _Failure(NamedTuple):
    """Why a rank cannot load a checkpoint."""

    diagnostics: tuple[Diagnostic, ...]
    exit_code: ExitCode


def load(engine: Engine, folder: Path) -> Manifest:
    """Go on from a checkpoint: weights, moments and loss scale. Every rank has to call it, before its first step.

    Everything is judged before anything is changed; each file's digest by one of the ranks.

    Raises:
        PlanError: the checkpoint is damaged, or of another model.
    """
    manifest = _judge(engine, folder)
    reader = TensorReader(folder, manifest)
    engine.complete_weights()
    with torch.no_grad():
        for held in held_states(engine):
            _load(held, reader, manifest.facts.optimizer_step)
        use_loaded(engine)
    write_loss_scale(engine.optimizer, manifest.facts.loss_scale)
    return manifest


def _judge(engine: Engine, folder: Path) -> Manifest:
    """The manifest, if every rank finds the checkpoint whole; else what the first one that does not found."""
    manifest, failure = None, None
    try:
        manifest = read_manifest(folder)
        check_model(manifest.facts, engine.model_spec, folder)
        check_tensors(manifest, {name: tuple(shape) for name, shape in engine.shapes.items()}, folder)
        check_files(folder, manifest, sorted(manifest.files)[dist.get_rank() :: dist.get_world_size()])
    except PlanError as error:
        failure = _Failure(error.diagnostics, error.exit_code)
    for found in of_everyone(failure, _Failure | None):
        if found is not None:
            raise PlanError(*found.diagnostics, exit_code=found.exit_code)
    assert manifest is not None
    return manifest


def _load(held: Held, reader: TensorReader, optimizer_step: int) -> None:
    # What the forward pass computes with needs the whole part, an update only its own range.
    wanted = (0, None) if held.working is not None else (held.start, held.stop)
    weights = reader.part(WEIGHTS, held.name, held.part, *wanted)
    held.write_weights(weights, first=wanted[0])
    if optimizer_step:
        moments = {
            kind: reader.part(kind, held.name, held.part, held.start, held.stop) for kind in KINDS if kind != WEIGHTS
        }
        held.write_moments(moments, optimizer_step)


def start_from(engine: Engine, folder: Path) -> None:
    """Begin with the weights in a folder of Transformers', in whatever precision; every rank has to call it.

    Raises:
        PlanError: they are not there, or are those of another model.
    """
    files = _Weights(folder)
    wrong = [text for name, shape in engine.shapes.items() if (text := files.fault(name, tuple(shape)))]
    if (heads := heads_in(folder)) not in {None, engine.model_spec.num_heads}:
        wrong.append(f"{heads} attention heads, the plan's model has {engine.model_spec.num_heads}")
    if wrong:
        message = f"the weights are of another model than the plan's: {len(wrong)} things differ"
        found = Diagnostic(rule=OTHER_MODEL, message=message, location=str(folder), detail="\n".join(wrong[:10]))
        raise PlanError(found)
    engine.complete_weights()
    with torch.no_grad():
        for held in held_states(engine):
            held.write_weights(held.part.cut(files.slice(held.name)))
        use_loaded(engine)


class _Weights:
    """The tensors of a folder of Transformers', mapped and not read."""

    def __init__(self, folder: Path) -> None:
        self._opened: dict[Path, Any] = {}
        files = weights_in(folder)
        if files is None:
            single = folder / SINGLE_FILE
            files = dict.fromkeys(self._open(single).keys(), single)
        self._files = files

    def _open(self, path: Path) -> Any:
        if path not in self._opened:
            try:
                self._opened[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise damaged(path, f"the weights cannot be read: {error}", "copy or export them again") from error
        return self._opened[path]

    def _name(self, name: str) -> str | None:
        # Of some models the body was saved alone, without the prefix that it has in the whole.
        names = (name, name.partition(".")[2])
        return next((one for one in names if one in self._files), None)

    def slice(self, name: str) -> Any:
        """The tensor of a parameter, to be cut."""
        own = self._name(name)
        assert own is not None
        return self._open(self._files[own]).get_slice(own)

    def fault(self, name: str, shape: tuple[int, ...]) -> str:
        """What is wrong with the tensor of a parameter, if anything."""
        if self._name(name) is None:
            return f"{name} is missing"
        found = tuple(self.slice(name).get_shape())
        return "" if found == shape else f"{name} has shape {list(found)}, the model's is {list(shape)}"
