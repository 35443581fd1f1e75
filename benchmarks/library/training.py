"""One rank of a library run: build, boost, train a few steps, and say what was measured."""

import importlib.metadata
import math
import time
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.booster.plugin import GeminiPlugin, HybridParallelPlugin, LowLevelZeroPlugin
from colossalai.lazy import LazyInitContext
from colossalai.nn.optimizer import HybridAdam
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.library.cases import LibraryCase
from planner.validation.recording import measured_cells
from runtime.calibrate.timing import wait
from runtime.train.measure import PACKAGES
from runtime.train.memory import forget_peaks, gather_memory, memory_records
from runtime.train.steps import Step, has_updated, median_step_s

LAZY_ABOVE = 5e8
"""Parameters above which a model is initialised lazily, after it is divided."""


def train(case: LibraryCase, device: torch.device) -> dict[str, str]:
    """Train ``case`` with the other ranks of the process group; the cells that were measured. Units: s, MiB."""
    booster = Booster(plugin=_plugin(case, device))
    with _initialisation(case, device):
        model = GPT2LMHeadModel(_config(case))
    if case.recompute:
        model.gradient_checkpointing_enable()
    optimizer = _optimizer(case, model)
    model, optimizer, *_ = booster.boost(model, optimizer)
    boosted = memory_records(gather_memory(0, device))
    forget_peaks(device)
    steps = [_step(case, booster, model, optimizer, device) for _ in range(case.steps)]
    ranks = memory_records(gather_memory(0, device))
    return {
        **measured_cells(median_step_s(steps), boosted, ranks, on_cpu=device.type == "cpu"),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _config(case: LibraryCase) -> GPT2Config:
    return GPT2Config(
        n_layer=case.layers,
        n_embd=case.hidden,
        n_head=case.heads,
        n_positions=case.seq_len,
        vocab_size=case.vocab,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )


def _initialisation(case: LibraryCase, device: torch.device) -> Any:
    parameters = 12 * case.layers * case.hidden**2
    # LowLevelZeroPlugin recurses without end on a lazily initialised model.
    lazy = parameters > LAZY_ABOVE and case.plugin != "LowLevelZeroPlugin"
    return LazyInitContext(default_device=device) if lazy else nullcontext()


def _plugin(case: LibraryCase, device: torch.device) -> Any:
    if case.plugin == "GeminiPlugin":
        return GeminiPlugin(
            precision=case.precision,
            placement_policy="static",
            shard_param_frac=1.0,
            offload_optim_frac=case.optimizer_fraction,
            offload_param_frac=case.parameter_fraction,
            enable_flash_attention=case.flash,
        )
    if case.plugin == "LowLevelZeroPlugin":
        return LowLevelZeroPlugin(stage=case.zero, precision=case.precision)
    settings: dict[str, Any] = {}
    if case.pp > 1:
        settings |= {"pp_style": case.schedule, "microbatch_size": case.micro_batch, "num_model_chunks": case.chunks}
    if case.sequence_parallel:
        settings |= {"enable_sequence_parallelism": True, "sequence_parallelism_mode": "split_gather"}
    return HybridParallelPlugin(
        tp_size=case.tp,
        pp_size=case.pp,
        zero_stage=case.zero,
        precision=case.precision,
        enable_flash_attention=case.flash,
        overlap_communication=device.type == "cuda",
        **settings,
    )


def _optimizer(case: LibraryCase, model: torch.nn.Module) -> torch.optim.Optimizer:
    kind: Any = HybridAdam if case.fused_adam else torch.optim.AdamW
    optimizer: torch.optim.Optimizer = kind(model.parameters(), lr=1e-4)
    return optimizer


def _step(case: LibraryCase, booster: Booster, model: Any, optimizer: Any, device: torch.device) -> Step:
    tokens = torch.randint(0, case.vocab, (case.rank_batch, case.seq_len), device=device)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    wait(device)
    dist.barrier()
    start = time.perf_counter()
    if case.pp > 1:
        loss = booster.execute_pipeline(
            iter([batch]), model, lambda outputs, _: outputs[0], optimizer, return_loss=True
        )["loss"]
    else:
        outputs = model(**batch)  # as in the library's examples: the logits live through backward
        loss = outputs.loss
        booster.backward(loss, optimizer)
    optimizer.step()
    optimizer.zero_grad()
    wait(device)
    seconds = time.perf_counter() - start
    return Step(math.nan if loss is None else float(loss), seconds, has_updated(optimizer))
