"""Where the formulas come from. Formula docstrings name these ids."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

Formula = TypeVar("Formula", bound=Callable[..., object])


class Source(NamedTuple):
    """A document that a formula rests on."""

    title: str
    reference: str


SOURCES = {
    "narayanan2021": Source(
        "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", "arXiv 2104.04473"
    ),
    "korthikanti2022": Source("Reducing Activation Recomputation in Large Transformer Models", "arXiv 2205.05198"),
    "shoeybi2019": Source("Megatron-LM: Training Multi-Billion Parameter Models", "arXiv 1909.08053"),
    "rajbhandari2020": Source(
        "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", "arXiv 1910.02054"
    ),
    "radford2019": Source("Language Models are Unsupervised Multitask Learners", "OpenAI, 2019"),
    "dao2022": Source("FlashAttention: Fast and Memory-Efficient Exact Attention", "arXiv 2205.14135"),
    "xu2021": Source("An Efficient 2D Method for Training Super-Large Deep Learning Models", "arXiv 2104.05343"),
    "wang2021": Source("2.5-dimensional Distributed Model Training", "arXiv 2105.14500"),
    "bian2021": Source("Maximizing Parallelism in Distributed Training for Huge Neural Networks", "arXiv 2105.14450"),
    "thakur2005": Source("Optimization of Collective Communication Operations in MPICH", "IJHPCA 19(1), 2005"),
    "colossalai0.5.0": Source("Colossal-AI 0.5.0, source of the plugins and the ZeRO optimizer", "colossalai 0.5.0"),
    "lee2023": Source("Distribution-free inference with hierarchical data", "arXiv 2306.06342"),
    "qi2023": Source("Zero Bubble Pipeline Parallelism", "arXiv 2401.10241"),
    "qi2024": Source("Pipeline Parallelism with Controllable Memory", "arXiv 2405.15362"),
    "nvidia-matmul": Source(
        "Matrix Multiplication Background User's Guide, tile and wave quantization", "NVIDIA Deep Learning Performance"
    ),
    "su2021": Source("RoFormer: Enhanced Transformer with Rotary Position Embedding", "arXiv 2104.09864"),
    "shazeer2020": Source("GLU Variants Improve Transformer", "arXiv 2002.05202"),
    "zhang2019": Source("Root Mean Square Layer Normalization", "arXiv 1910.07467"),
    "ainslie2023": Source("GQA: Training Generalized Multi-Query Transformer Models", "arXiv 2305.13245"),
    "jiang2023": Source("Mistral 7B", "arXiv 2310.06825"),
    "liu2023": Source("Ring Attention with Blockwise Transformers for Near-Infinite Context", "arXiv 2310.01889"),
    "transformer-engine": Source(
        "TransformerEngine, pytorch/attention, AttnFuncWithCPAndKVP2P: keys and values sent behind attention, outputs "
        "of parts added one by one",
        "v1.11 to v2.2",
    ),
    "jacobs2023": Source("DeepSpeed Ulysses: System Optimizations for Extreme Long Sequences", "arXiv 2309.14509"),
    "pytorch-allocator": Source(
        "PyTorch documentation, CUDA semantics and Tensor.record_stream: blocks in use on another stream", "PyTorch 2.5"
    ),
    "pytorch-checkpoint": Source(
        "PyTorch documentation, torch.utils.checkpoint: early stopping of the recomputation", "PyTorch 2.5"
    ),
    "pytorch-checks": Source(
        "PyTorch, torch/csrc/distributed/c10d/ProcessGroupWrapper.cpp: under TORCH_DISTRIBUTED_DEBUG=DETAIL the ranks "
        "of a group meet over Gloo before each collective",
        "PyTorch 2.1",
    ),
    "pytorch-ddp": Source(
        "PyTorch, torch/csrc/distributed/c10d/reducer.cpp, compute_bucket_assignment_by_size", "PyTorch 2.1"
    ),
    "shazeer2017": Source(
        "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer", "arXiv 1701.06538"
    ),
    "fedus2022": Source(
        "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity",
        "arXiv 2101.03961",
    ),
    "lepikhin2020": Source(
        "GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding", "arXiv 2006.16668"
    ),
    "jiang2024": Source("Mixtral of Experts", "arXiv 2401.04088"),
    "wang2024": Source("Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", "arXiv 2408.15664"),
    "deepseek2024v2": Source("DeepSeek-V2: A Strong, Economical, and Efficient MoE Language Model", "arXiv 2405.04434"),
    "deepseek2024v3": Source("DeepSeek-V3 Technical Report", "arXiv 2412.19437"),
    "wilson1931": Source("The Distribution of Chi-Square", "PNAS 17(12), 1931"),
    "megatron-core": Source("Megatron Core, transformer/moe and its README", "NVIDIA/Megatron-LM"),
    "definition": Source("Follows from the definition of the quantity", "-"),
}

FORMULAS: dict[str, tuple[str, ...]] = {}
"""Qualified name of every registered formula to the ids of its sources."""


def formula(*source_ids: str) -> Callable[[Formula], Formula]:
    """Register a cost formula with the sources it rests on."""

    def register(function: Formula) -> Formula:
        module, name = function.__module__.rsplit(".", 1)[-1], getattr(function, "__name__", "")
        FORMULAS[f"{module}.{name}"] = source_ids
        return function

    return register
