"""From rows to problems and layouts: every dialect, what is filled in, and why rows are left out."""

import pytest

from planner.diagnostics import PlanError
from planner.specs.units import MIB
from planner.validation import published, recorded, seed
from planner.validation.cases import Assumptions, SkippedRow, head_count, layers_by_cost, stage_layers
from tests.helpers import changed, tiny_llama
from tests.unit.validation.validation_rows import PUBLISHED, RECORDED, SEED, row


def test_a_published_row() -> None:
    case = published.case_of(row(PUBLISHED))
    layout, problem = case.layout, case.problem
    assert (layout.tensor_mode, layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel) == (
        "1d",
        2,
        4,
        4,
    )
    assert (layout.micro_batch, layout.num_microbatches, layout.zero_stage) == (2, 32, 1)
    assert (layout.schedule, layout.layers_per_stage) == ("1f1b", (10, 10, 10, 10))
    assert layout.recompute_layers_per_stage == layout.layers_per_stage
    assert (problem.model.hidden_size, problem.model.ffn_hidden_size, problem.model.vocab_size) == (5120, 20480, 50257)
    assert (problem.hardware.name, problem.num_devices, problem.devices_per_node) == ("a100-80g", 32, 8)
    assert (problem.stack.name, problem.stack.activations.attention) == ("megatron-deepspeed", "materialised")
    assert case.measured.step_s == 20.5
    assert case.measured.memory_bytes == {"device": 31_000 * MIB}


def test_blanks_of_a_published_row_are_filled_and_named() -> None:
    case = published.case_of(row(PUBLISHED, precision="", recompute="", vocab="", gpu_mem_gb="", flash_attention=""))
    assert case.problem.precision == "fp16"
    assert case.problem.model.vocab_size == 250000
    assert "BLOOM-prequel: vocab 250000" in case.assumptions
    assert "BLOOM-prequel: precision fp16 (the rows before the bf16 ones ran in fp16)" in case.assumptions
    assert "card memory 80 GB where the table states none" in case.assumptions
    stated = published.case_of(row(PUBLISHED)).assumptions
    assert not any("vocab" in text or "precision" in text or "card" in text for text in stated)


def test_the_bf16_rows_of_a_set_may_have_another_stack() -> None:
    assert published.case_of(row(PUBLISHED, precision="bf16")).problem.stack.name == "megatron-deepspeed-bf16"


def test_an_interleaved_row() -> None:
    layout = published.case_of(row(PUBLISHED, vpp="5")).layout
    assert (layout.schedule, layout.num_model_chunks) == ("interleaved", 5)


def test_selective_recomputation_makes_the_scores_again() -> None:
    case = published.case_of(row(PUBLISHED, recompute="selective"))
    assert case.problem.stack.activations.attention == "recomputed"
    assert case.layout.recompute_layers_per_stage == (0, 0, 0, 0)
    flash = published.case_of(row(PUBLISHED, recompute="selective", flash_attention="yes"))
    assert flash.problem.stack.activations.attention == "flash"


def test_a_set_may_know_better_than_its_table() -> None:
    """The column of vTrain's single-node runs is its simulator's setting."""
    case = published.case_of(row(PUBLISHED, set="vTrain-single"))
    assert case.layout.recompute_layers_per_stage == (0, 0, 0, 0)
    assert not case.problem.stack.pads_whole_vocab
    assert any(text.startswith("vTrain-single: recompute none (the column") for text in case.assumptions)
    assert published.case_of(row(PUBLISHED, set="vTrain-multi")).layout.recompute_layers_per_stage == (10, 10, 10, 10)


def test_chunks_and_slices_that_a_table_leaves_out() -> None:
    layout = published.case_of(row(PUBLISHED, set="Megatron-H100", gpu="H100", sequence_parallel="")).layout
    assert (layout.schedule, layout.num_model_chunks, layout.sequence_parallel) == ("interleaved", 10, True)
    stated = published.case_of(row(PUBLISHED, set="Megatron-H100", gpu="H100", vpp="5")).layout
    assert (stated.num_model_chunks, stated.sequence_parallel) == (5, False)


def test_a_network_may_be_known_by_measurement() -> None:
    network = published.case_of(row(PUBLISHED, interconnect="NVLink; 4x Omni-Path per node")).problem.hardware.network
    assert (network.nics_per_node, network.bandwidth_bytes_per_s, network.efficiency) == (4, 12.5e9, 0.405)
    assert network.ring_bytes_per_s == pytest.approx(40.5e9 / 8)


def test_a_named_network_replaces_that_of_the_card() -> None:
    network = published.case_of(row(PUBLISHED, interconnect="NVLink; 4x Omni-Path per node")).problem.hardware.network
    assert (network.nics_per_node, network.bandwidth_bytes_per_s) == (4, 12.5e9)


def test_step_time_from_tokens_per_second() -> None:
    case = published.case_of(row(PUBLISHED, measured_step_s="", tokens_per_s_per_gpu="1024"))
    assert case.measured.step_s == 256 * 2048 / 32 / 1024


def test_step_time_from_model_flops() -> None:
    case = published.case_of(
        row(PUBLISHED, measured_step_s="", measured_tflops_per_gpu="100", tflops_kind="model", vocab="51200")
    )
    # 72 B s l h^2 (1 + s / 6h + V / 12lh) of arXiv 2104.04473 without recomputation.
    flops = 72 * 256 * 2048 * 40 * 5120**2 * (1 + 2048 / (6 * 5120) + 51200 / (12 * 40 * 5120))
    assert case.measured.step_s == pytest.approx(flops / 32 / 100e12)


def test_step_time_from_hardware_flops_counts_recomputation() -> None:
    kind = "hardware(incl. recompute)"
    case = published.case_of(
        row(PUBLISHED, measured_step_s="", measured_tflops_per_gpu="100", tflops_kind=kind, vocab="51200")
    )
    flops = 96 * 256 * 2048 * 40 * 5120**2 * (1 + 2048 / (6 * 5120) + 51200 / (16 * 40 * 5120))
    assert case.measured.step_s == pytest.approx(flops / 32 / 100e12)


def test_flops_of_an_unknown_kind_give_no_step_time() -> None:
    case = published.case_of(row(PUBLISHED, measured_step_s="", measured_tflops_per_gpu="100", tflops_kind="unknown"))
    assert case.measured.step_s is None


@pytest.mark.parametrize(
    ("words", "kind", "stage"),
    [
        ('nvidia-smi "GB" as printed, largest = first/last stage', "device", "fullest"),
        ("torch max allocated, LAST rank (last pipeline stage) only", "allocated", "last"),
        ("max over ranks, torchtitan Memory(GiB)", "reserved", "fullest"),
    ],
)
def test_memory_readings_differ_in_kind(words: str, kind: str, stage: str) -> None:
    measured = published.case_of(row(PUBLISHED, mem_kind=words)).measured
    assert list(measured.memory_bytes) == [kind]
    assert measured.stage == stage


def test_a_memory_reading_has_to_say_its_kind() -> None:
    with pytest.raises(PlanError, match="does not say what the memory reading counts"):
        published.case_of(row(PUBLISHED, mem_kind="big"))


def test_a_row_of_a_known_mixture_is_that_model_with_even_routing() -> None:
    shape = {"model": "MIXTRAL_8X7B", "layers": "32", "hidden": "4096", "heads": "32", "ep": "8", "stack": "megatron"}
    case = published.case_of(row(PUBLISHED, **shape, gpu="H100", tp="1", dp="8", precision="bf16", set="a-set"))
    model = case.problem.model
    assert model.experts is not None
    assert (model.experts.count, model.experts.fullest) == (8, 1.0)
    assert (model.seq_len, case.layout.expert_parallel) == (2048, 8)
    assert any("equally many tokens" in assumed for assumed in case.assumptions)
    sliced = published.case_of(row(PUBLISHED, **shape, gpu="H100", dp="4", precision="bf16", set="a-set"))
    assert sliced.layout.sequence_parallel


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"from_memory": "yes"}, "rests partly on recollection (from_memory=yes)"),
        ({"kv_heads": "8"}, "grouped-query attention of a model whose other parts are not told"),
        ({"model": "NEMOTRON-15B"}, "a mixture of experts, or parts of a model that are not told"),
        ({"model": "MIXTRAL_8x7B"}, "ep not stated"),
        ({"model": "Mixtral 8x7B", "ep": "2"}, "not the layers and hidden units of mixtral-8x7b"),
        ({"precision": "FP8 (current scaling)"}, "8-bit or 4-bit matrix products are not modelled"),
        ({"precision": "NVFP4"}, "8-bit or 4-bit matrix products are not modelled"),
        ({"cp": "2"}, "context parallelism of megatron-deepspeed is not modelled"),
        ({"recompute": "selective(op)"}, "recomputation of single operators or layers is not modelled"),
        ({"zero_stage": "hybrid"}, "sharding within a node and replication between nodes is not modelled"),
        ({"layers": ""}, "layers not stated"),
        ({"global_batch": ""}, "global_batch not stated"),
        ({"micro_batch": ""}, "micro_batch not stated"),
        ({"n_gpus": "64"}, "TP x PP x DP is not the number of GPUs"),
        ({"global_batch": "255"}, "the global batch does not divide by DP x micro batch"),
        ({"gpu": "GB200", "gpu_mem_gb": ""}, "no hardware spec for GB200"),
        ({"gpu": "H100 (HBM2e, 500W)", "gpu_mem_gb": "96"}, "no hardware spec for H100 (HBM2e, 500W) 96 GB"),
        ({"gpu": "V100", "gpu_mem_gb": "32", "precision": "bf16"}, "v100-32g has no bf16"),
    ],
)
def test_a_row_that_cannot_be_replayed_says_why(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(SkippedRow) as raised:
        published.case_of(row(PUBLISHED, **changes))
    assert str(raised.value) == reason


@pytest.mark.parametrize(
    ("column", "text"),
    [("recompute", "partial"), ("flash_attention", "maybe"), ("outcome", "ok"), ("offload", "tape"), ("pp", "two")],
)
def test_an_unknown_word_names_its_column(column: str, text: str) -> None:
    with pytest.raises(PlanError) as raised:
        published.case_of(row(PUBLISHED, **{column: text}))
    assert raised.value.diagnostics[0].location == f"runs.csv:2: column {column}"


def test_a_recorded_row() -> None:
    case = recorded.case_of(row(RECORDED))
    layout = case.layout
    assert (layout.pipeline_parallel, layout.num_microbatches, layout.schedule) == (4, 8, "1f1b")
    assert layout.layers_per_stage == (2, 3, 3, 2), "Colossal-AI gives the middle stages the rest"
    assert case.problem.hardware.name == "h200-141g"
    assert case.problem.stack.name == "colossalai"
    assert case.problem.model.dropout == 0.1
    assert case.measured.memory_bytes == {"allocated": 3100 * MIB, "reserved": 3300 * MIB, "device": 6000 * MIB}


def test_a_recorded_row_may_list_its_layers() -> None:
    assert recorded.case_of(row(RECORDED, layers_per_stage="4 2 2 2")).layout.layers_per_stage == (4, 2, 2, 2)
    with pytest.raises(PlanError, match="not those of the model"):
        recorded.case_of(row(RECORDED, layers_per_stage="4 2 2 1"))


def test_a_built_in_model_of_a_recorded_run_has_its_own_dropout() -> None:
    assert recorded.case_of(row(RECORDED, model="gpt3-1.3b")).problem.model.dropout == 0.0


def test_other_blocks_are_another_stack() -> None:
    assert recorded.case_of(row(RECORDED, attn="hf sdpa")).problem.stack.name == "colossalai-hf"


def test_offload_of_a_recorded_row() -> None:
    case = recorded.case_of(
        row(RECORDED, pp="1", pp_style="", dp="4", zero_stage="1", batch_per_dp_rank="4", offload_optim_frac="1.0")
    )
    assert (case.layout.offload.optimizer, case.layout.offload.tier, case.problem.allow_offload) == (1.0, "cpu", "cpu")


@pytest.mark.parametrize(
    ("attn", "asked", "optimizer", "parameters"),
    [
        ("gptplan causal sdpa", ("0.5", "0.5"), 0.5, 0.5),
        ("hf sdpa", ("0.5", ""), 1.0, 0.0),
        ("hf sdpa", ("0.05", ""), 0.0, 0.0),
        ("hf sdpa", ("1.0", "0.5"), 1.0, 0.0),
        ("hf sdpa", ("1.0", "1.0"), 1.0, 1.0),
    ],
)
def test_a_share_that_gemini_is_asked_for_is_what_it_does(
    attn: str, asked: tuple[str, str], optimizer: float, parameters: float
) -> None:
    fields = {
        "plugin": "GeminiPlugin",
        "pp": "1",
        "pp_style": "",
        "dp": "4",
        "zero_stage": "3",
        "shard_param_frac": "1.0",
    }
    stated = {"batch_per_dp_rank": "4", "offload_optim_frac": asked[0], "offload_param_frac": asked[1]}
    case = recorded.case_of(row(RECORDED, attn=attn, **fields, **stated))
    assert (case.layout.offload.optimizer, case.layout.offload.parameters) == (optimizer, parameters)
    changed = (float(asked[0]), float(asked[1] or 0)) != (optimizer, parameters)
    assert any("counts a chunk once for every parameter" in text for text in case.assumptions) == changed


def test_a_recorded_row_whose_batches_disagree_is_left_out() -> None:
    with pytest.raises(SkippedRow, match="the batch of a rank times DP is not the global batch"):
        recorded.case_of(row(RECORDED, batch_per_dp_rank="8"))


def test_a_seed_row() -> None:
    case = seed.case_of(row(SEED))
    layout = case.layout
    assert (layout.tensor_mode, layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel) == (
        "1d",
        2,
        2,
        2,
    )
    assert (layout.micro_batch, layout.num_microbatches, layout.global_batch) == (2, 4, 16)
    assert case.problem.precision == "fp16"
    assert case.measured.memory_bytes == {"device": 5537 * MIB}
    assert case.measured.step_s is None


@pytest.mark.parametrize(
    ("mode", "tensor", "depth", "batch"),
    [("1d", "8", "", 1), ("2d", "4", "", 2), ("2.5d", "8", "2", 4), ("3d", "8", "", 4)],
)
def test_a_grid_takes_the_next_batch_that_divides(mode: str, tensor: str, depth: str, batch: int) -> None:
    case = seed.case_of(
        row(
            SEED,
            tensor_mode=mode,
            tensor_parallel=tensor,
            tensor_depth=depth,
            pipeline_parallel="1",
            data_parallel="1",
            n_gpus=tensor,
            batch_size="1",
            num_microbatches="1",
            measured_mib_per_gpu="6000",
        )
    )
    assert case.layout.micro_batch == case.problem.global_batch == batch
    assert any("does not divide over the grid" in text for text in case.assumptions) == (batch > 1)


def test_a_seed_row_that_offloads() -> None:
    offload = seed.case_of(
        row(
            SEED,
            tensor_mode="none",
            tensor_parallel="1",
            pipeline_parallel="1",
            data_parallel="8",
            batch_size="1",
            num_microbatches="",
            zero_stage="3",
            offload_tier="cpu",
        )
    ).layout.offload
    assert (offload.optimizer, offload.parameters, offload.tier) == (1.0, 1.0, "cpu")


@pytest.mark.parametrize(
    ("layers", "stages", "middle", "expected"),
    [
        (12, 4, False, (3, 3, 3, 3)),
        (70, 12, False, (5, *(6,) * 10, 5)),  # 72 with the embedding and the head
        (13, 4, False, (4, 3, 3, 3)),
        (13, 4, True, (3, 3, 4, 3)),
        (14, 4, True, (3, 4, 4, 3)),
        (14, 4, False, (3, 4, 4, 3)),  # 16 with the embedding and the head
    ],
)
def test_layers_of_stages(layers: int, stages: int, middle: bool, expected: tuple[int, ...]) -> None:
    assert stage_layers(layers, stages, middle=middle, assumed=Assumptions()) == expected


@pytest.mark.parametrize(("hidden", "tensor", "heads"), [(12288, 8, 96), (14400, 8, 120), (768, 1, 6), (2048, 4, 16)])
def test_heads_that_are_not_stated(hidden: int, tensor: int, heads: int) -> None:
    assert head_count(hidden, tensor) == heads


def test_a_row_of_llama_has_its_parts_and_the_software_of_such_rows() -> None:
    case = published.case_of(row(PUBLISHED, set="any", model="LLAMA3-8B", kv_heads="8", ffn_hidden="14336"))
    model = case.problem.model
    assert (model.family, model.kv_heads, model.ffn_hidden_size, model.tied_embeddings) == ("llama", 8, 14336, False)
    assert case.problem.stack.name == "megatron"


def test_layers_by_cost_count_the_loss_head() -> None:
    model = changed(tiny_llama(), num_layers=16)  # 2304 weights a layer and 2048 of the head, 16.9 layers in all
    assert layers_by_cost(model, 2) == (9, 7)
    tied = changed(model, vocab_size=576)
    assert layers_by_cost(tied, 4) == (6, 5, 5, 0)
    assert layers_by_cost(tied, 4, ends_at_share=True) == (5, 5, 5, 1)
    assert layers_by_cost(changed(model, vocab_size=576), 8) == (3, 3, 2, 3, 2, 3, 0, 0)  # a head of four layers
