"""Which attention a run had, and what it moved, where its row and the stack leave it open."""

import msgspec

from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import load_spec
from planner.specs.stack_time import TrafficSpec
from planner.validation.cases import Assumptions
from planner.validation.facts import SetFacts
from planner.validation.tables import Row

STORES_SCORES, FUSED = "megatron-2021", "megatron"
"""Stacks whose counts of stored scores and whose share of FlashAttention-2 stand in for those that a stack lacks."""
_NO_FLASH = "FlashAttention's README: no kernels for cards before Ampere"


def stated_attention(row: Row) -> str | None:
    """What the row says; Megatron Core's own blocks (`impl local`) have no fused attention."""
    flash = row.choice("flash_attention", {"yes": "flash", "no": "materialised", "unknown": ""})
    return flash or ("materialised" if "impl local" in row.text("note") else None)


def possible(facts: SetFacts, hardware: HardwareSpec) -> SetFacts:
    """Facts as far as the card can: one without bf16 runs in fp16, and FlashAttention has no kernels for it."""
    if hardware.device != "cuda" or "bf16" in hardware.peak_flops_per_s or facts.precision != "bf16":
        return facts
    why = facts.why | {"precision": f"{hardware.name} has no bf16", "attention": _NO_FLASH}
    return msgspec.structs.replace(facts, precision="fp16", attention=facts.attention or "materialised", why=why)


def attention_traffic(stack: StackSpec, attention: str, assumed: Assumptions) -> TrafficSpec:
    """The stack's traffic, with what it does not know of a run's attention that is not its own."""
    traffic, stores_scores = stack.traffic, attention in ("materialised", "recomputed")
    if stores_scores and not traffic.score_elements:
        assumed.note(f"stack {stack.name} stores no scores; those of the run are moved as Megatron-LM's of 2021 are")
        return msgspec.structs.replace(traffic, score_elements=_traffic_of(STORES_SCORES).score_elements)
    if not stores_scores and traffic.attention_efficiency is None:
        assumed.note(f"stack {stack.name} has no fused attention; that of the run is FlashAttention-2")
        return msgspec.structs.replace(traffic, attention_efficiency=_traffic_of(FUSED).attention_efficiency)
    return traffic


def _traffic_of(stack: str) -> TrafficSpec:
    return load_spec(stack, StackSpec).traffic
