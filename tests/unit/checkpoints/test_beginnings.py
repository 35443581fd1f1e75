"""Weights that a run begins with: those of another model are refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.checkpoints.beginnings import check_weights
from planner.diagnostics import ExitCode, PlanError
from planner.specs import ModelSpec
from planner.specs.files import load_spec
from tests.helpers import changed, tiny_llama, tiny_model

GPT2: dict[str, Any] = {
    **{"model_type": "gpt2", "n_layer": 4, "n_embd": 16, "n_head": 4, "n_positions": 8, "vocab_size": 128},
    **{"activation_function": "gelu_new", "n_inner": 64},
}


def tensors(layers: int = 4, vocab: int = 128, hidden: int = 16) -> dict[str, list[int]]:
    """Some of GPT-2's, as its body was saved alone."""
    blocks = {f"h.{layer}.mlp.c_fc.weight": [hidden, 4 * hidden] for layer in range(layers)}
    return {"wte.weight": [vocab, hidden], "wpe.weight": [8, hidden], **blocks}


def header(shapes: dict[str, list[int]]) -> bytes:
    """A file in safetensors' format without what its tensors hold."""
    fields = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **fields}).encode()
    return len(text).to_bytes(8, "little") + text


def folder(path: Path, config: dict[str, Any] | None, shapes: dict[str, list[int]] | None = None) -> Path:
    (path / "model.safetensors").write_bytes(header(shapes if shapes is not None else tensors()))
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def refusal(path: Path, model: ModelSpec) -> tuple[str, str]:
    with pytest.raises(PlanError) as raised:
        check_weights(path, model)
    (diagnostic,) = raised.value.diagnostics
    assert (raised.value.exit_code, diagnostic.rule) == (ExitCode.USAGE, "CKP003")
    assert diagnostic.location == f"--init-from {path}"
    return diagnostic.message, diagnostic.detail


@pytest.mark.parametrize("config", [GPT2, None, {"model_type": "something"}], ids=["config", "tensors", "unknown"])
def test_weights_of_the_model_are_let_through(config: dict[str, Any] | None, tmp_path: Path) -> None:
    check_weights(folder(tmp_path, config), tiny_model())


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"num_layers": 5}, "num_layers: 4 in config.json, 5 in the plan"),
        ({"num_heads": 2}, "num_heads: 4 in config.json, 2 in the plan\nkv_heads: 4 in config.json, 2 in the plan"),
        ({"ffn_hidden_size": 32}, "ffn_hidden_size: 64 in config.json, 32 in the plan"),
        ({"max_seq_len": 16}, "max_seq_len: 8 in config.json, 16 in the plan"),
    ],
)
def test_the_config_tells_what_differs(change: dict[str, int], detail: str, tmp_path: Path) -> None:
    message, found = refusal(folder(tmp_path, GPT2), changed(tiny_model(), **change))
    count = len(detail.splitlines())
    assert message == f"the weights are of another model than tiny, the plan's: {count} sizes differ"
    assert found == detail


def test_tensors_tell_it_without_a_config(tmp_path: Path) -> None:
    _, detail = refusal(folder(tmp_path, None, tensors(layers=3, vocab=100)), tiny_model())
    assert detail == "num_layers: 3 in its tensors, 4 in the plan\nvocab_size: 100 in its tensors, 128 in the plan"


def test_tensors_of_several_files_count_together(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)]
    for number, layers in enumerate((names[:2], names[2:])):
        shapes = {"model.embed_tokens.weight": [128, 16]} if number else {}
        (tmp_path / f"part-{number}").write_bytes(header(shapes | {name: [32, 16] for name in layers}))
    index = {name: f"part-{number // 2}" for number, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    check_weights(tmp_path, tiny_llama())
    _, detail = refusal(tmp_path, changed(tiny_llama(), num_layers=8, hidden_size=32))
    assert detail == "num_layers: 4 in its tensors, 8 in the plan\nhidden_size: 16 in its tensors, 32 in the plan"


def test_weights_of_experts_do_not_begin_a_model_without_or_with_others(tmp_path: Path) -> None:
    mixtral = load_spec("mixtral-tiny", ModelSpec)
    assert mixtral.experts is not None
    count = mixtral.experts.count
    dense, more = (changed(mixtral, experts=one) for one in (None, changed(mixtral.experts, count=2 * count)))
    table = {"model.embed_tokens.weight": [mixtral.vocab_size, mixtral.hidden_size]}
    places = [(layer, expert) for layer in range(mixtral.num_layers) for expert in range(count)]
    names = [f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight" for layer, expert in places]
    path = folder(tmp_path, None, table | {name: [1, 1] for name in names})
    check_weights(path, mixtral)
    assert refusal(path, dense)[1] == f"experts.count: {count} in its tensors, 0 in the plan"
    assert refusal(path, more)[1] == f"experts.count: {count} in its tensors, {2 * count} in the plan"
    config = {"model_type": "llama", "hidden_act": "silu", "vocab_size": mixtral.vocab_size}
    config |= {"hidden_size": mixtral.hidden_size, "intermediate_size": mixtral.ffn_hidden_size}
    config |= {"num_hidden_layers": mixtral.num_layers, "num_attention_heads": mixtral.num_heads}
    config |= {"num_key_value_heads": mixtral.kv_heads, "max_position_embeddings": mixtral.max_seq_len}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refusal(path, mixtral)[1] == f"experts.count: 0 in config.json, {count} in the plan"


@pytest.mark.parametrize(
    "content", [b"", b"x" * 7, b"\xff" * 8 + b"{}", header({})[:20], (2).to_bytes(8, "little") + b"[]"]
)
def test_files_that_are_damaged_are_left_to_the_ranks(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    check_weights(tmp_path, tiny_model())


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there are no weights in it"):
        check_weights(tmp_path, tiny_model())
