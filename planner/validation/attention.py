"""Which attention a run had, and what it moved, where its row and the stack leave it open."""

import msgspec

from planner.specs import HardwareSpec, StackSpec
from planner.specs.stack_time import TrafficSpec
from planner.validation.cases import Assumptions
from planner.validation.facts import SetFacts
from planner.validation.tables import Row

STORED_SCORES = 5.5
"""Elements moved for each score that attention stores where the row's stack stores none: those of ``megatron-2021``."""
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


def with_scores(stack: StackSpec, attention: str, assumed: Assumptions) -> TrafficSpec:
    """The stack's traffic, with that of scores where a run stores them and the stack knows of none."""
    if attention not in ("materialised", "recomputed") or stack.traffic.score_elements:
        return stack.traffic
    assumed.note(f"stack {stack.name} stores no scores; those of the run are moved as Megatron-LM's of 2021 are")
    return msgspec.structs.replace(stack.traffic, score_elements=STORED_SCORES)
