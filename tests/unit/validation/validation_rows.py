"""Rows of measured runs for tests, one dialect each; a test changes what it is about."""

import csv
from pathlib import Path

from planner.validation.tables import Row

PUBLISHED = {
    "id": "p-1",
    "set": "BLOOM-prequel",
    "model": "GPT 13B",
    "layers": "40",
    "hidden": "5120",
    "heads": "40",
    "vocab": "50257",
    "seq_len": "2048",
    "gpu": "A100",
    "gpu_mem_gb": "80",
    "n_gpus": "32",
    "gpus_per_node": "8",
    "tp": "2",
    "pp": "4",
    "dp": "4",
    "cp": "1",
    "vpp": "",
    "zero_stage": "1",
    "sequence_parallel": "no",
    "recompute": "full",
    "offload": "none",
    "micro_batch": "2",
    "global_batch": "256",
    "precision": "fp16",
    "flash_attention": "no",
    "measured_step_s": "20.5",
    "tokens_per_s_per_gpu": "",
    "measured_tflops_per_gpu": "",
    "tflops_kind": "",
    "measured_mfu": "",
    "measured_mem_gib": "31",
    "mem_kind": "nvidia-smi",
    "outcome": "fit",
    "from_memory": "no",
    "interconnect": "",
    "kv_heads": "",
    "ffn_hidden": "",
    "ep": "",
    "stack": "",
    "note": "",
}
RECORDED = {
    "id": "r-1",
    "set": "own-runs",
    "gpu": "H200-SXM-141G",
    "n_gpus": "4",
    "model": "a-model",
    "layers": "10",
    "hidden": "1024",
    "heads": "16",
    "vocab": "50257",
    "seq_len": "1024",
    "plugin": "HybridParallelPlugin",
    "tp": "1",
    "pp": "4",
    "dp": "1",
    "zero_stage": "0",
    "pp_style": "1f1b",
    "num_model_chunks": "1",
    "layers_per_stage": "",
    "micro_batch": "2",
    "batch_per_dp_rank": "16",
    "global_batch": "16",
    "recompute": "none",
    "precision": "bf16",
    "attn": "gptplan causal sdpa",
    "shard_param_frac": "",
    "offload_optim_frac": "0.0",
    "offload_param_frac": "",
    "outcome": "fit",
    "step_s": "0.5",
    "peak_allocated_mib_per_rank": "3000 2900 2800 3100",
    "peak_reserved_mib_max": "3300",
    "device_used_mib_max": "6000",
}
SEED = {
    "id": "s-1",
    "set": "seed",
    "config": "gpt2-pp1d",
    "model": "gpt2-small",
    "layers": "12",
    "hidden": "768",
    "heads": "12",
    "vocab": "50304",
    "seq_len": "1024",
    "gpu": "A100-80G",
    "gpu_mem_gb": "80",
    "n_gpus": "8",
    "tensor_mode": "1d",
    "tensor_parallel": "2",
    "tensor_depth": "",
    "pipeline_parallel": "2",
    "data_parallel": "2",
    "zero_stage": "0",
    "offload_tier": "none",
    "batch_size": "8",
    "num_microbatches": "4",
    "recompute": "full",
    "precision": "fp16 (naive amp)",
    "measured_mib_per_gpu": "4555 4571 5537 5517",
    "outcome": "fit",
}


def row(base: dict[str, str], **changes: str) -> Row:
    """A row of a table that does not exist, at line 2."""
    assert changes.keys() <= base.keys()
    return Row(base | changes, Path("runs.csv"), 2)


def write_table(path: Path, *rows: dict[str, str]) -> Path:
    """A table of rows with the same columns."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
