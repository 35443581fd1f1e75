"""What is known of a set of runs beyond its table: how blanks are filled, and why. Data, no code path per set.

Nothing here is a number fitted to the measurements: each value is how the software of the set works, what its
authors say elsewhere, or, where a table leaves no other possibility, what its own times imply; the reason says which.
"""

from typing import Literal, TypeVar

import msgspec

from planner.specs import Precision
from planner.validation.cases import Assumptions, StageRead

Value = TypeVar("Value")
Attention = Literal["flash", "materialised"]


class SetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Fillings for the blanks of one set; a row's own cell always wins."""

    stack: str
    bf16_stack: str | None = None
    """The stack of rows in bf16, if that is another one."""
    zero3_stack: str | None = None
    """The stack of rows under ZeRO stage 3, if that is another one."""
    precision: Precision = "bf16"
    attention: Attention = "flash"
    recompute: Literal["full", "none"] = "none"
    states_recompute: bool = True
    """Whether the table's column of it holds for the runs; if not, ``recompute`` does."""
    zero_stage: int = 0
    dropout: float = 0.1
    card_gb: int = 80
    vocab: int = 50257
    micro_batch: int | Literal["whole"] | None = None
    """``whole``: a data-parallel rank's batch is one micro batch. ``None``: a row has to state it."""
    sequence_parallel: bool = False
    layers_per_chunk: int | None = None
    """Layers of a chunk of the interleaved schedule, where the row states no chunks; ``None``: 1F1B."""
    pads_whole_vocab: bool = True
    """Whether a rank that has the whole vocabulary pads it."""
    blocking_launches: bool = False
    """Whether the runs were made with CUDA_LAUNCH_BLOCKING=1."""
    stage_read: StageRead = "fullest"
    """The pipeline stage whose memory the set's readings show."""
    why: dict[str, str] = {}
    """Field to the reason for its value."""
    caveat: str = ""
    """What limits how close a prediction of this set can come, if its source says so."""
    worst: str = ""
    """What the rows have in common whose step times are predicted worst, and why as far as that is known."""


_BEFORE_FLASH = "the runs are older than FlashAttention"
_BIGSCIENCE = {
    "stack": "trained with BigScience's Megatron-DeepSpeed",
    "attention": "Megatron-DeepSpeed of early 2022 materialises the scores",
    "dropout": "Megatron-LM's defaults for attention and hidden dropout",
    "blocking_launches": "larger runs hung on that cluster without, says train/tr11-176B-ml/chronicles-prequel.md",
}
_VTRAIN = SetFacts(
    stack="megatron-deepspeed-2021", precision="fp16", attention="materialised", recompute="full", zero_stage=0,
    pads_whole_vocab=False, why={
        "pads_whole_vocab": "on one rank alone a sequence adds 4.1 ms with 1024 hidden units and 8.0 ms with 2048, as "
        "unaligned products with 50257 columns would, and on two ranks a fourth of that",
        "stack": "the set's note names Megatron-DeepSpeed; without ZeRO its optimizer is Megatron-LM's",
        "precision": "--fp16 is what Megatron-DeepSpeed's GPT examples set",
        "attention": _BEFORE_FLASH,
        "zero_stage": "vTrain simulates an all-reduce of gradients over data parallelism",
        "card_gb": "the paper's cluster has DGX A100 80 GB nodes",
        "vocab": "vTrain's default",
        "dropout": "Megatron-LM's defaults",
    },
)  # fmt: skip
_NARAYANAN = SetFacts(
    stack="megatron-2021", zero3_stack="megatron-deepspeed-2021", precision="fp16",
    attention="materialised", recompute="full", vocab=51200, micro_batch=1,
    why={
        "stack": "measured with Megatron-LM, the ZeRO-3 rows with DeepSpeed",
        "precision": "arXiv 2104.04473, section 5: mixed precision, against the fp16 peak",
        "attention": _BEFORE_FLASH,
        "recompute": "arXiv 2104.04473, section 5.1: its FLOP count includes recomputation of every layer",
        "zero_stage": "Megatron-LM of 2021 does not shard the optimizer",
        "card_gb": "Selene has 80 GB cards",
        "vocab": "the vocabulary of its other rows",
        "micro_batch": "Megatron-LM's 175B example script",
        "dropout": "Megatron-LM's defaults",
    },
)  # fmt: skip
_NVIDIA = SetFacts(
    stack="megatron", zero_stage=1, vocab=51200, micro_batch=1,
    why={
        "stack": "measured with Megatron Core",
        "precision": "Megatron Core's recipes for this card train in bf16",
        "attention": "Transformer Engine's fused attention",
        "recompute": "tables of best throughput; fused attention leaves little to recompute",
        "zero_stage": "its recipes shard the optimizer over data parallelism",
        "card_gb": "DGX H100 nodes have 80 GB cards",
        "vocab": "GPT-3's 50,257 rounded up as in Megatron-LM's scaling tables",
        "micro_batch": "what the other large models of these tables use",
        "dropout": "Megatron-LM's defaults",
    },
)  # fmt: skip
_DEFAULT = SetFacts(
    stack="colossalai", micro_batch=None,
    why={
        "stack": "the stack that gptplan runs",
        "precision": "what current training runs use",
        "attention": "what current stacks use",
        "recompute": "nothing is said of recomputation",
        "zero_stage": "nothing is said of sharding",
        "card_gb": "the larger card of its kind",
        "vocab": "GPT-2's vocabulary",
        "dropout": "GPT-2's dropout",
    },
)  # fmt: skip

FACTS: dict[str, SetFacts] = {
    "vTrain-single": msgspec.structs.replace(_VTRAIN, recompute="none", states_recompute=False, why=_VTRAIN.why | {
        "recompute": "the column is the simulator's setting. Eight sequences on a rank take 16.4 ms a layer with 2048 "
        "hidden units and 8.05 ms with 1024: with recomputation the products would run at the card's peak or beyond, "
        "whatever the rest takes, and without it at about 230 TFLOP/s",
    }, worst="tensor parallelism over eight ranks with one sequence a micro batch leaves each rank two heads, which "
    "Megatron-LM's fused softmax does not take (it wants a multiple of four scores' matrices); the kernels that run "
    "instead are not modelled. Over eight ranks larger micro batches are too fast as well, and over four with 2048 "
    "hidden units small ones too slow: the host's time there differs by 1 ms a layer without a visible reason"),
    "vTrain-multi": msgspec.structs.replace(
        _VTRAIN, worst="the model of 8192 hidden units over two and four ranks of tensor parallelism takes up to 50 % "
        "longer than other divisions of the same step, and longer with more and smaller micro batches; no formula "
        "does that. Tensor parallelism over 16 ranks, so over two nodes, is predicted too slow",
    ),
    "BLOOM-prequel": SetFacts(
        caveat="one iteration of each run on a shared cluster, memory printed as whole GB",
        worst="heads of 108 units (rows 64, 98, 101) run the whole step 35 % slower than those of 144 or 216, heads "
        "of 128 (59, 68) 15 to 20 %; heads of 150 do not, so that alignment is no reason. Row 95 is 30 % slower than "
        "its neighbours. Rows of before the nodes' PCIe links were mended, by the source's words 1 to 5 % slower, are "
        "not told apart",
        stack="megatron-deepspeed", bf16_stack="megatron-deepspeed-bf16", precision="fp16",
        attention="materialised", recompute="full", zero_stage=1, vocab=250000, blocking_launches=True,
        why=_BIGSCIENCE | {"precision": "the rows before the bf16 ones ran in fp16"},
    ),
    "BLOOM-final": SetFacts(
        caveat="single iterations on a shared cluster, but for the first row",
        worst="two divisions over 192 GPUs, single iterations of a step that others of this set do as predicted",
        stack="megatron-deepspeed-bf16", precision="bf16", attention="materialised", recompute="full", zero_stage=1,
        vocab=250880, blocking_launches=True, why=_BIGSCIENCE,
    ),
    "BigScience-1B3-V100": SetFacts(
        caveat="step times printed as whole seconds, memory as whole GB",
        worst="the two rows with tensor parallelism have one sequence a micro batch; what its all-reduces take more on "
        "V100, whose links have no switch, is not known",
        stack="megatron-deepspeed-2021", precision="fp16", attention="materialised", recompute="full", zero_stage=1,
        stage_read="first", why=_BIGSCIENCE | {
            "stage_read": "two nodes of four cards: nvidia-smi on the node of the shell shows the first stages, "
            "and 4 to 8 sequences in a micro batch add less than one rank's logits do",
        },
    ),
    "BigScience-V100": SetFacts(
        stack="megatron-deepspeed-2021", precision="fp16", attention="materialised", recompute="full", card_gb=32,
        caveat="the authors state 40 % noise between runs",
        worst="pipelines over four and more nodes; the network of that cluster is known from one benchmark alone",
        why=_BIGSCIENCE | {
            "zero_stage": "Megatron-LM without DeepSpeed where no stage is stated",
            "vocab": "GPT-2's vocabulary, as in the scripts",
        },
    ),
    "MosaicML": SetFacts(
        stack="llm-foundry", dropout=0.0, why={
            "stack": "LLM Foundry's own table; the notes name FSDP",
            "dropout": "MPT's configurations set attention, residual and embedding dropout to 0",
        },
        worst="models of 1536 to 2560 hidden units on H100, all of them 10 to 17 % too fast, whose products and "
        "element-wise kernels of PyTorch 2.1 are not known apart; rows 21, 68, 121 and 140 stand apart from their "
        "neighbours in the source's own table",
    ),
    "Narayanan2021-T1": _NARAYANAN,
    "Narayanan2021-T2": _NARAYANAN,
    "MT-NLG": _NARAYANAN,
    "Megatron-2020": SetFacts(
        stack="megatron-2021", precision="fp16", attention="materialised", recompute="full", micro_batch="whole",
        vocab=51200, card_gb=40, why={
            "stack": "measured with Megatron-LM",
            "precision": "Megatron-LM's scripts of 2020 set --fp16",
            "attention": _BEFORE_FLASH,
            "recompute": "Megatron-LM's scripts of 2020 set --checkpoint-activations",
            "zero_stage": "Megatron-LM of 2020 does not shard the optimizer",
            "micro_batch": "Megatron-LM of 2020 does not accumulate gradients",
            "card_gb": "DGX A100 of 2020 has 40 GB cards, DGX-2 32 GB ones",
            "dropout": "Megatron-LM's defaults",
        },
    ),
    "Korthikanti2022": msgspec.structs.replace(_NARAYANAN, stack="megatron"),
    "Megatron-H100": msgspec.structs.replace(
        _NVIDIA, sequence_parallel=True, layers_per_chunk=1, why=_NVIDIA.why | {
            "sequence_parallel": "the runs set --tp-comm-overlap, which needs it",
            "layers_per_chunk": "its sends overlap with computation, which only the interleaved schedule does; stages "
            "of 23 and of 7 layers leave no other chunks than single layers",
        }, worst="its 32B model reduces 4 billion parameters a rank over 48 ranks, which one sequence of computation"
        " cannot hide; its micro batch is not stated, and larger ones hide it, but make the smaller models too fast",
    ),
    "NVIDIA-dgxc": msgspec.structs.replace(
        _NVIDIA, sequence_parallel=True, why=_NVIDIA.why | {
            "sequence_parallel": "NeMo's configuration of the same model and layout sets it "
            "(NeMo-Framework-Launcher, conf/training/gpt3/175b.yaml: TP 4, PP 8, 12 chunks)",
        },
    ),
    "NeMo": _NVIDIA,
    "colossalai-h200-library": SetFacts(
        stack="colossalai-hf",
        worst="by time small models, which wait for the host: the host's times in `colossalai-hf` are those of "
        "another machine. By memory two rows that logits over tensor-parallel ranks dominate: their snapshots of "
        "allocations count 12 bytes a logit where colossalai-h100 shows 15, and the difference is not explained",
    ),
    "Megatron-golden-mem": SetFacts(
        caveat="nearly all rows are a model of 512 hidden units: for debugging formulas, not for claims of accuracy",
        stack="megatron", why={
            "stack": "measured with Megatron Core",
            "attention": "Transformer Engine's fused attention, where the row does not say",
            "dropout": "Megatron-LM's defaults",
        },
    ),
}  # fmt: skip


OWN_BLOCKS = SetFacts(
    stack="colossalai",
    why={"stack": "its attention names gptplan's blocks", "dropout": "gptplan's blocks take the model's dropout"},
)
"""Recorded runs of gptplan itself."""
HUGGING_FACE_BLOCKS = SetFacts(
    stack="colossalai-hf", dropout=0.0, why={
        "stack": "its attention names Colossal-AI's or Hugging Face's own",
        "dropout": "what the runs allocate leaves no room for dropout masks",
    },
)  # fmt: skip
"""Recorded runs of Colossal-AI with the models of Hugging Face."""
LEGACY_EXAMPLES = SetFacts(
    stack="colossalai-legacy",
    why={"stack": "the table is that of Colossal-AI's first GPT examples", "dropout": "the examples' model"},
)


def facts_of(set_name: str) -> SetFacts:
    """The fillings of a set; general ones for a set that nothing is known of."""
    return FACTS.get(set_name, _DEFAULT)


def caveat_of(set_name: str) -> str:
    """What limits the accuracy of a set by its own source, or nothing."""
    return facts_of(set_name).caveat


def worst_of(set_name: str) -> str:
    """What is known of the rows of a set that are predicted worst, or nothing."""
    return facts_of(set_name).worst


def filled_value(
    set_name: str, facts: SetFacts, assumed: Assumptions, field: str, value: Value | None, known: Value
) -> Value:
    """``value`` where the row states it, else ``known``, which is noted with its reason."""
    if value is not None:
        return value
    why = facts.why.get(field, "")
    assumed.note(f"{set_name}: {field} {known}" + f" ({why})" * bool(why))
    return known
