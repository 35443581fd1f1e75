"""One rank of a library run: build, boost, train a few steps, and say what was measured."""

import importlib.metadata
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.booster.plugin import GeminiPlugin, HybridParallelPlugin, LowLevelZeroPlugin
from colossalai.lazy import LazyInitContext
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.library.cases import LibraryCase
from planner.units import MIB

WARM_UP_STEPS = 3
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
    after_boost = _allocated(device)
    _reset_peak(device)
    times = [_step(case, booster, model, optimizer, device) for _ in range(case.steps)]
    return {
        "step_s": f"{statistics.median(times[WARM_UP_STEPS:]):.5g}",
        "after_boost_allocated_mib": _per_rank(after_boost), **_peaks(device),
        **{name: importlib.metadata.version(name) for name in ("torch", "colossalai", "transformers")},
    }  # fmt: skip


def _config(case: LibraryCase) -> GPT2Config:
    return GPT2Config(
        n_layer=case.layers, n_embd=case.hidden, n_head=case.heads, n_positions=case.seq_len, vocab_size=case.vocab,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip


def _initialisation(case: LibraryCase, device: torch.device) -> Any:
    parameters = 12 * case.layers * case.hidden**2
    # LowLevelZeroPlugin recurses without end on a lazily initialised model.
    lazy = parameters > LAZY_ABOVE and case.plugin != "LowLevelZeroPlugin"
    return LazyInitContext(default_device=device) if lazy else nullcontext()


def _plugin(case: LibraryCase, device: torch.device) -> Any:
    if case.plugin == "GeminiPlugin":
        return GeminiPlugin(
            precision=case.precision, placement_policy="static", shard_param_frac=1.0,
            offload_optim_frac=case.optimizer_fraction, offload_param_frac=case.parameter_fraction,
            enable_flash_attention=case.flash,
        )  # fmt: skip
    if case.plugin == "LowLevelZeroPlugin":
        return LowLevelZeroPlugin(stage=case.zero, precision=case.precision)
    settings: dict[str, Any] = {}
    if case.pp > 1:
        settings |= {"pp_style": case.schedule, "microbatch_size": case.micro_batch, "num_model_chunks": case.chunks}
    if case.sequence_parallel:
        settings |= {"enable_sequence_parallelism": True, "sequence_parallelism_mode": "split_gather"}
    return HybridParallelPlugin(
        tp_size=case.tp, pp_size=case.pp, zero_stage=case.zero, precision=case.precision,
        enable_flash_attention=case.flash, overlap_communication=device.type == "cuda", **settings,
    )  # fmt: skip


def _optimizer(case: LibraryCase, model: torch.nn.Module) -> torch.optim.Optimizer:
    if case.fused_adam:
        from colossalai.nn.optimizer import HybridAdam

        fused: torch.optim.Optimizer = HybridAdam(model.parameters(), lr=1e-4)
        return fused
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def _step(case: LibraryCase, booster: Booster, model: Any, optimizer: Any, device: torch.device) -> float:
    tokens = torch.randint(0, case.vocab, (case.rank_batch, case.seq_len), device=device)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    _wait(device)
    dist.barrier()
    start = time.perf_counter()
    if case.pp > 1:
        booster.execute_pipeline(iter([batch]), model, lambda outputs, _: outputs[0], optimizer, return_loss=True)
    else:
        outputs = model(**batch)  # as in the library's examples: the logits live until the next step
        booster.backward(outputs.loss, optimizer)
    optimizer.step()
    optimizer.zero_grad()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peaks(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "peak_allocated_mib_per_rank": _per_rank(torch.cuda.max_memory_allocated(device)),
        "peak_reserved_mib_max": _largest(torch.cuda.max_memory_reserved(device)),
        "device_used_mib_max": _largest(total - free),
    }


def _gathered(value: int) -> list[int]:
    values: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _per_rank(num_bytes: int) -> str:
    return " ".join(str(round(one / MIB)) for one in _gathered(num_bytes))


def _largest(num_bytes: int) -> str:
    return str(round(max(_gathered(num_bytes)) / MIB))
