"""Plugins with a zero-bubble pipeline are judged and predicted like others."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Run

SCRIPT = """
nodes = graph.get_v_schedule()
plugin = HybridParallelPlugin(tp_size={tensor}, pp_size=4, pp_style="zbv", num_model_chunks=2, scheduler_nodes=nodes,
                              num_microbatches={count}, microbatch_size=1, precision="bf16", zero_stage=1)
{more}
"""


def checked(
    gptplan: Run, folder: Path, model: str, *, tensor: int = 2, count: int = 16, more: str = ""
) -> dict[str, Any]:
    path = folder / "train.py"
    path.write_text(SCRIPT.format(tensor=tensor, count=count, more=more))
    found = gptplan("check", str(path), "--model", model, "--gpus", "8", "--gpu", "h200-141g", "--json").document()
    assert isinstance(found, dict)
    return found


def rules_of(found: dict[str, Any], severity: str) -> set[str]:
    return {one["rule"] for one in found["diagnostics"] if one["severity"] == severity}


def test_a_zero_bubble_pipeline_is_predicted(gptplan: Run, tmp_path: Path) -> None:
    found = checked(gptplan, tmp_path, "llama2-7b")
    assert rules_of(found, "error") == set()
    assert "HPP026" in rules_of(found, "warning")
    assert found["layout"]["schedule"] == "zbv"
    assert found["predicted"]["step_s"] > 0
    assert "pipeline_communication" not in found["predicted"]["breakdown_s"]


@pytest.mark.parametrize(
    ("model", "settings", "rule"),
    [
        ("llama2-7b", {"count": 6}, "PP005"),
        ("gpt2-medium", {}, "HPP021"),
        ("qwen2.5-14b", {"tensor": 1}, "HPP028"),
        ("llama3.2-3b", {}, "PP006"),
    ],
)
def test_what_a_zero_bubble_pipeline_cannot_have_is_an_error(
    gptplan: Run, tmp_path: Path, model: str, settings: dict[str, Any], rule: str
) -> None:
    found = checked(gptplan, tmp_path, model, **settings)
    assert rule in rules_of(found, "error")


def test_checkpoints_of_a_zero_bubble_pipeline_are_a_warning_and_not_predicted(gptplan: Run, tmp_path: Path) -> None:
    found = checked(gptplan, tmp_path, "llama2-7b", more="model.gradient_checkpointing_enable()")
    assert "HPP027" in rules_of(found, "warning")
    assert found["predicted"] is None
    assert any("layers that recompute" in str(one) for one in found["diagnostics"])
