"""What rows tell beside their columns: recomputed layers by two utilisations, networks by what their set means."""

from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import load_spec
from planner.validation import published
from planner.validation.cases import recomputed_share
from tests.unit.validation.validation_rows import PUBLISHED, row


def test_selective_recomputation_of_whole_layers_is_told_by_both_utilisations() -> None:
    changes = {"recompute": "selective", "flash_attention": "yes", "measured_mfu": "40", "note": "FSDP; HFU 46%; 4k"}
    case = published.case_of(row(PUBLISHED, **changes))
    # 46 / 40 - 1 of three parts: 0.45 of the ten layers of a stage.
    assert case.layout.recompute_layers_per_stage == (4, 4, 4, 4)
    assert any("the hardware's FLOP beside the model's" in text for text in case.assumptions)
    for unlikely in ({"measured_mfu": ""}, {"note": "HFU 70%"}, {"note": "HFU 39%"}, {"note": "fast"}):
        kept = published.case_of(row(PUBLISHED, **(changes | unlikely)))
        assert kept.layout.recompute_layers_per_stage == (0, 0, 0, 0)
    assert recomputed_share(row(PUBLISHED, measured_mfu="0.0")) is None
    assert recomputed_share(row(PUBLISHED, **(changes | {"note": "HFU 54%"}))) == 1.0


def test_a_network_may_mean_something_in_one_set_alone() -> None:
    stated = {"interconnect": "400 Gbps", "gpu": "A100"}
    own = published.case_of(row(PUBLISHED, set="IBM-fms", **stated)).problem.hardware.network
    assert (own.nics_per_node, own.bandwidth_bytes_per_s) == (4, 12.5e9)
    other = published.case_of(row(PUBLISHED, **stated)).problem.hardware.network
    assert other == load_spec("a100-80g", HardwareSpec).network


def test_a_switch_joins_few_cards_as_well_as_all() -> None:
    card = {"gpu": "V100", "gpu_mem_gb": "32"}
    mesh = published.case_of(row(PUBLISHED, **card)).problem.hardware.node_link
    assert mesh.pair_efficiency is not None
    assert mesh.quad_efficiency is not None
    switched = published.case_of(row(PUBLISHED, interconnect="DGX-2", **card)).problem.hardware.node_link
    assert (switched.pair_efficiency, switched.quad_efficiency) == (None, None)
    assert switched.efficiency == mesh.efficiency


def test_a_machine_may_have_cards_of_another_clock() -> None:
    card = {"gpu": "V100", "gpu_mem_gb": "32", "precision": "fp16"}
    usual = published.case_of(row(PUBLISHED, **card)).problem.hardware.peak_flops_per_s["fp16"]
    faster = published.case_of(row(PUBLISHED, interconnect="DGX-2", **card)).problem.hardware.peak_flops_per_s["fp16"]
    assert (usual, faster) == (125e12, 130e12)


def test_a_row_of_an_unknown_set_has_the_attention_of_its_stack() -> None:
    silent = {"set": "somebody-else", "flash_attention": "", "precision": "bf16"}
    own = PUBLISHED | {"stack": "megatron-2021"}
    assert published.case_of(row(own, **silent)).problem.stack.activations.attention == "materialised"
    assert published.case_of(row(PUBLISHED, **silent)).problem.stack.activations.attention == "flash"
    stated = published.case_of(row(own, **silent | {"flash_attention": "yes"}))
    assert stated.problem.stack.activations.attention == "flash"


def test_a_card_without_bf16_runs_in_fp16_without_flash_attention() -> None:
    silent = {"set": "somebody-else", "flash_attention": "", "precision": "", "gpu": "V100", "gpu_mem_gb": "16"}
    case = published.case_of(row(PUBLISHED, **silent))
    assert (case.problem.precision, case.problem.stack.activations.attention) == ("fp16", "materialised")
    assert "somebody-else: precision fp16 (v100-16g has no bf16)" in case.assumptions
    usual = published.case_of(row(PUBLISHED, **silent | {"gpu": "A100", "gpu_mem_gb": "80"})).problem
    assert (usual.precision, usual.stack.activations.attention) == ("bf16", "flash")


def test_scores_of_a_run_are_moved_though_its_stack_stores_none() -> None:
    stated = {"set": "somebody-else", "precision": "bf16", "recompute": "none"}
    stored = published.case_of(row(PUBLISHED, flash_attention="no", **stated))
    counted = load_spec("megatron-2021", StackSpec).traffic.score_elements
    assert (stored.problem.stack.name, stored.problem.stack.traffic.score_elements) == ("colossalai", counted)
    assert any("stores no scores" in words for words in stored.assumptions)
    fused = published.case_of(row(PUBLISHED, flash_attention="yes", **stated)).problem.stack
    assert fused.traffic == load_spec("colossalai", StackSpec).traffic


def test_fused_attention_of_a_run_has_a_rate_of_its_own_though_its_stack_has_none() -> None:
    fused = published.case_of(row(PUBLISHED, flash_attention="yes"))
    assert fused.problem.stack.name == "megatron-deepspeed"
    usual = load_spec("megatron", StackSpec).traffic.attention_efficiency
    assert fused.problem.stack.traffic.attention_efficiency == usual == 0.61
    assert any("FlashAttention-2" in words for words in fused.assumptions)
    assert published.case_of(row(PUBLISHED)).problem.stack.traffic.attention_efficiency is None
