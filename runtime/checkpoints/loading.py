"""Loading a checkpoint into any layout of the same model; a rank reads no more than it holds."""

from pathlib import Path

import torch
import torch.distributed as dist

from planner.checkpoints.folders import check_files
from planner.checkpoints.manifest import KINDS, WEIGHTS, Manifest, check_model, check_tensors, read_manifest
from planner.diagnostics import PlanError
from runtime.checkpoints.engines import held_states, use_loaded
from runtime.checkpoints.held import Held
from runtime.checkpoints.tensor_file import TensorReader
from runtime.engines.engine import Engine
from runtime.states.loss_scale import write_loss_scale


def load(engine: Engine, folder: Path) -> Manifest:
    """Go on from a checkpoint: weights, moments and loss scale. Every rank has to call it, before its first step.

    Everything is judged before anything is changed; each file's digest by one of the ranks.

    Raises:
        PlanError: the checkpoint is damaged, or of another model.
    """
    manifest = _judge(engine, folder)
    reader = TensorReader(folder, manifest)
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
        failure = (error.diagnostics, error.exit_code)
    failures = [failure] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    for found in failures:
        if found is not None:
            raise PlanError(*found[0], exit_code=found[1])
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
