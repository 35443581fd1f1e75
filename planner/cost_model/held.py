"""Blocks that the allocator cannot give away yet, because the stream of a collective may still use them."""

import numpy as np

from planner.cost_model import activations, compute
from planner.cost_model.communication import layer_collectives
from planner.cost_model.parts import block
from planner.cost_model.pipeline import outside_layers_seconds
from planner.cost_model.products import BACKWARD_PRODUCTS, Passes
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, microbatch_tokens, once_per_places, padded_vocab
from planner.specs import ELEMENT_BYTES

FEW_IN_FLIGHT = 2
"""Micro batches in flight of a first stage whose next stage is the last, which answers every forward at once."""


@formula("pytorch-allocator", "definition")
def held_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Whole hidden states before their scatter, or gradients, whose blocks wait for the end of a collective.

    The allocator does not give a block away that the stream of a collective still uses, and asks for its events only
    when it needs memory. A host that is ahead of the device so finds none of the last layers' blocks free: one for
    each product that tensor parallelism reduces, of :func:`layers_ahead`. Units: bytes.
    """
    columns, own = stages.layouts, block(problem)
    if not problem.stack.process.held_launches or (columns.tensor_parallel == 1).all():
        return np.zeros(len(stages))
    states = microbatch_tokens(problem, columns) * float(problem.model.hidden_size * ELEMENT_BYTES[problem.precision])
    held = own.divided("inner") * states * layers_ahead(problem, stages)
    return np.where(columns.tensor_parallel > 1, held, 0.0)


@formula("pytorch-allocator", "definition")
def layers_ahead(problem: Problem, stages: StageColumns) -> Floats:
    """Layers that the host has issued and the device not run, each pass by itself, at the end of a forward pass.

    At most as many as CUDA queues launches of, those of a backward pass counting twice: those of the last forward pass,
    and of the backward pass before it where there are several micro batches, by what the host is ahead after all of
    them. A first stage of a pipeline is ahead likewise, as its messages leave it what it has gained. It receives
    nothing before its first backward, and what it sends waits until the next stage, which fills as well, takes it: of
    more than two forward passes of the fill all but the first and the last are ahead in any case. Other stages wait
    for each forward: they get ahead by ``1 - host / device`` of a layer with each that they issue of one. A host that
    waits for all messages is not ahead.
    """
    columns, layers = stages.layouts, stages.num_layers.astype(np.float64)
    queued = problem.stack.process.held_launches / block(problem).kernels
    ahead_s, passes_s = seconds_ahead(problem, stages), layer_device_seconds(problem, stages)
    forward = np.minimum(np.minimum(layers, queued), ahead_s / passes_s.forward)
    backward = np.minimum(layers, (queued - forward) / BACKWARD_PRODUCTS)
    backward = np.minimum(backward, np.maximum(ahead_s - forward * passes_s.forward, 0.0) / passes_s.backward)
    alone = forward + np.where(columns.num_microbatches > 1, backward, 0.0)
    in_flight = activations.in_flight_microbatches(stages)
    filling = np.where(stages.is_first & (in_flight > FEW_IN_FLIGHT), in_flight - 2.0, 0.0)
    steady = np.where(stages.is_first, alone, host_lead(problem, stages) * layers)
    waits = problem.stack.traffic.message_host_s > 0
    in_pipeline = np.minimum(np.maximum(filling * layers, steady), 0.0 if waits else queued)
    return np.where(columns.pipeline_parallel > 1, in_pipeline, alone)


@formula("definition")
def seconds_ahead(problem: Problem, stages: StageColumns) -> Floats:
    """What the host is ahead of the device at the end of a step, if no queue held it. Units: s.

    Micro batch by micro batch what the device takes longer for it, with the embedding, the head and the additions of
    gradients. Where the host takes longer, the devices of a group wait for the slowest of its hosts, and the others
    get ahead by what that one takes longer than they do, unless they wait for each other or for messages.
    """
    columns, layers, traffic = stages.layouts, stages.num_layers, problem.stack.traffic
    forward, backward = layer_device_seconds(problem, stages)
    device = layers * (forward + backward) + outside_layers_seconds(problem, stages)
    passes = 1.0 + BACKWARD_PRODUCTS
    host = passes * layers * compute.layer_host_seconds(problem, stages) + float(traffic.outside_host_s)
    spread = 0.0 if traffic.collective_rank_host_s > 0 else traffic.host_spread
    slowest = np.where(columns.pipeline_parallel == 1, spread * host, 0.0)
    return np.maximum(device - host, slowest) * columns.num_microbatches


@formula("definition")
def layer_device_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """One layer for one micro batch on the device with its collectives, a third of them in forward. Units: s."""
    layer, collectives = compute.layer_seconds(problem, stages), layer_collectives(problem, stages).once
    share = collectives / (1.0 + BACKWARD_PRODUCTS)
    return Passes(layer.forward + share, layer.backward + collectives - share)


@formula("definition")
def host_lead(problem: Problem, stages: StageColumns) -> Floats:
    """Share of a layer by which the host gets ahead of the device with each layer: ``1 - host / device``, from 0 on."""
    host_s = (1.0 + BACKWARD_PRODUCTS) * compute.layer_host_seconds(problem, stages)
    forward, backward = layer_device_seconds(problem, stages)
    return np.maximum(1.0 - host_s / (forward + backward), 0.0)


@formula("definition")
@once_per_places
def largest_tensor_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """The largest tensor of a micro batch: the output of the widest product, and on the last stage logits in fp32."""
    columns, element = stages.layouts, float(ELEMENT_BYTES[problem.precision])
    tokens, part = rank_tokens(problem, stages), shares(columns).split_hidden
    widest = max(product.outer for product in block(problem).products) * element
    logits = padded_vocab(problem, columns) * float(ELEMENT_BYTES["fp32"])
    return tokens * part * np.where(stages.is_last, np.maximum(widest, logits), widest)
