"""Files whose ranks divide sequences: by all-to-all with Colossal-AI, in a ring with Megatron-LM."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Run

PLUGIN = """from colossalai.booster.plugin import HybridParallelPlugin
plugin = HybridParallelPlugin(tp_size=1, pp_size=1, sp_size={size}, enable_sequence_parallelism=True,
                              sequence_parallelism_mode="{mode}", zero_stage=1, precision="bf16")
"""
MEGATRON = (
    "torchrun --nproc_per_node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --context-parallel-size 2 --bf16 "
    "--seq-length 8192 --max-position-embeddings 8192 --micro-batch-size 1 --global-batch-size 16 {more}\n"
)


@pytest.fixture
def checked(gptplan: Run, tmp_path: Path) -> Any:
    """``checked("a.sh", text)`` is what `check --json` says of a file with the text, of Llama 3 8B on 8 H100."""

    def of_text(name: str, text: str) -> dict[str, Any]:
        (tmp_path / name).write_text(text)
        asked = ("--model", "llama3-8b", "--gpus", "8", "--gpu", "h100-80g", "--json")
        found = gptplan("check", str(tmp_path / name), *asked).document()
        assert isinstance(found, dict)
        return found

    return of_text


def test_a_ring_of_megatron_is_predicted(checked: Any) -> None:
    found = checked("a.sh", MEGATRON.format(more="--use-distributed-optimizer --sequence-parallel"))
    assert found["valid"] is True
    layout = found["layout"]
    assert (layout["sequence_parallel_degree"], layout["sequence_parallel"], layout["data_parallel"]) == (2, True, 2)
    assert found["predicted"]["step_s"] > 0


def test_pieces_of_a_ring_are_told_in_one_rule(checked: Any) -> None:
    found = checked("a.sh", MEGATRON.replace("8192", "8190").format(more="--use-distributed-optimizer"))
    errors = {one["rule"] for one in found["diagnostics"] if one["severity"] == "error"}
    assert errors == {"MEG017"}


def test_a_sequence_of_megatron_deepspeed_is_not(checked: Any) -> None:
    text = MEGATRON.replace("--context-parallel-size", "--ds-sequence-parallel-size").format(more="--deepspeed")
    found = checked("a.sh", text)
    assert found["predicted"] is None


@pytest.mark.parametrize(("mode", "size", "predicted"), [("all_to_all", 4, True), ("ring_attn", 4, False)])
def test_a_plugin_is_predicted_where_it_exchanges_heads(checked: Any, mode: str, size: int, predicted: bool) -> None:
    found = checked("a.py", PLUGIN.format(mode=mode, size=size))
    assert (found["predicted"] is not None) == predicted
    if predicted:
        assert found["layout"]["sequence_parallel_degree"] == size


def test_heads_that_all_to_all_does_not_divide_are_an_error(checked: Any) -> None:
    found = checked("a.py", PLUGIN.format(mode="all_to_all", size=16))
    assert "SP005" in {one["rule"] for one in found["diagnostics"] if one["severity"] == "error"}
