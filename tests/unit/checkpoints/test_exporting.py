"""Weights as a folder of Transformers': whole or not there, and nobody's files replaced."""

import json
from pathlib import Path

import pytest

from planner.checkpoints.exporting import export_weights, heads_in, weights_in
from planner.checkpoints.manifest import Kind, TensorFile
from planner.diagnostics import PlanError
from tests.unit.checkpoints.test_manifest import SHAPES, file_of, manifest_of, written


def checkpoint(folder: Path, files: dict[str, TensorFile]) -> Path:
    folder.mkdir()
    written(folder, manifest_of(files=files))
    (folder / "config.json").write_text('{"n_head": 4}')
    return folder


def of_kind(kind: Kind, *names: str) -> dict[str, TensorFile]:
    return {f"{kind}-{number}": file_of(kind, {name: SHAPES[name]}) for number, name in enumerate(names)}


def test_files_get_the_names_that_transformers_looks_for(tmp_path: Path) -> None:
    files = of_kind("model", "a.weight", "b.bias") | of_kind("exp_avg", "a.weight", "b.bias")
    source = checkpoint(tmp_path / "step-00000010", files)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer" / "notes.txt").touch()
    assert export_weights(tmp_path, tmp_path / "out" / "hf", tmp_path / "tokenizer") == source
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    found = sorted(path.name for path in (tmp_path / "out" / "hf").iterdir())
    assert found == ["config.json", *names, "model.safetensors.index.json", "tokenizer.json"]
    weights = json.loads((tmp_path / "out" / "hf" / "model.safetensors.index.json").read_text())["weight_map"]
    assert weights == dict(zip(("a.weight", "b.bias"), names, strict=True))
    assert weights_in(tmp_path / "out" / "hf") == {key: tmp_path / "out" / "hf" / name for key, name in weights.items()}
    assert heads_in(tmp_path / "out" / "hf") == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["hf"]


def test_one_file_has_no_index(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "step-00000010", {"model-0": file_of("model", SHAPES)})
    (tmp_path / "hf").mkdir()
    export_weights(source, tmp_path / "hf")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["config.json", "model.safetensors"]
    assert weights_in(tmp_path / "hf") is None


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "step-00000010", {"model-0": file_of("model", SHAPES)})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(PlanError, match="there is something already"):
        export_weights(source, tmp_path / "taken")
    with pytest.raises(PlanError, match="there is no tokenizer"):
        export_weights(source, tmp_path / "hf", tmp_path / "missing")
    (source / "model-0").write_bytes(b"012345678X")
    with pytest.raises(PlanError, match="a file of the checkpoint was changed"):
        export_weights(source, tmp_path / "hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "taken"]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.tex"]


def test_a_folder_without_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"there are no weights in it: neither model.safetensors nor model.safetensors"):
        weights_in(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(PlanError, match="this is no index of weights"):
        weights_in(tmp_path)
    assert heads_in(tmp_path) is None
