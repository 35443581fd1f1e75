"""What a checkpoint says of itself, and what is refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.checkpoints.folders import check_files
from planner.checkpoints.manifest import (
    Facts,
    Kind,
    LossScale,
    Manifest,
    TensorFile,
    check_model,
    check_tensors,
    encode,
    index,
    read_manifest,
)
from planner.diagnostics import ExitCode, PlanError
from tests.helpers import changed, tiny_model

SHAPES = {"a.weight": (4, 2), "b.bias": (3,)}
CONTENT = b"0123456789"
SHA256 = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"  # of CONTENT, as sha256sum says


def file_of(kind: Kind, tensors: dict[str, tuple[int, ...]]) -> TensorFile:
    return TensorFile(kind=kind, num_bytes=len(CONTENT), sha256=SHA256, tensors=tensors)


def manifest_of(**fields: Any) -> Manifest:
    facts = Facts(
        step=10,
        consumed_sequences=80,
        optimizer_step=9,
        loss_scale=LossScale(scale=1024.0, growth_step=3, hysteresis_step=1),
        seed=7,
        precision="fp16",
        model=tiny_model(),
        plan_digest="sha256:plan",
        gptplan_version="1",
        versions={"torch": "2"},
    )
    kinds: tuple[Kind, ...] = ("model", "exp_avg", "exp_avg_sq")
    files = {f"{kind}-0": file_of(kind, SHAPES) for kind in kinds}
    return msgspec.structs.replace(Manifest(facts=facts, files=files), **fields)


def written(folder: Path, manifest: Manifest | None = None) -> Manifest:
    manifest = manifest or manifest_of()
    for name in manifest.files:
        (folder / name).write_bytes(CONTENT)
    (folder / "manifest.json").write_bytes(encode(manifest))
    return manifest


def refused(work: Any) -> tuple[str, int, str, str]:
    with pytest.raises(PlanError) as caught:
        work()
    (found,) = caught.value.diagnostics
    return found.rule, caught.value.exit_code, found.message, found.detail


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    found = read_manifest(tmp_path)
    assert msgspec.structs.replace(found, digest="") == manifest
    assert found.digest.startswith("sha256:")
    assert found.num_bytes == 30
    assert found.names("exp_avg") == dict.fromkeys(SHAPES, "exp_avg-0")
    assert json.loads(index(found)) == {
        "metadata": {"total_size": 10},
        "weight_map": {"a.weight": "model-0", "b.bias": "model-0"},
    }


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    assert refused(lambda: read_manifest(tmp_path))[:2] == ("USAGE", ExitCode.USAGE)
    written(tmp_path)
    path, whole = tmp_path / "manifest.json", (tmp_path / "manifest.json").read_bytes()
    for content, message in [
        (whole[:-100], "the manifest is no whole JSON document: "),
        (b"[]", "the checkpoint has format None, this gptplan reads format 1"),
        (whole.replace(b'"format_version": 1', b'"format_version": 2'), "the checkpoint has format 2, this gptplan "),
        (whole.replace(b'"seed": 7', b'"seed": 8'), "the manifest was changed after gptplan wrote it"),
    ]:
        path.write_bytes(content)
        rule, code, found, _ = refused(lambda: read_manifest(tmp_path))
        assert (rule, code) == ("CKP002", ExitCode.NEGATIVE)
        assert found.startswith(message)


def test_a_name_leads_out_of_no_folder(tmp_path: Path) -> None:
    manifest = manifest_of(files={"../model": file_of("model", SHAPES)})
    (tmp_path / "manifest.json").write_bytes(encode(manifest))
    message = "the manifest names a file outside of its folder: ../model"
    assert refused(lambda: read_manifest(tmp_path))[2] == message


def test_files_are_compared_by_size_and_content(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    check_files(tmp_path, manifest)
    (tmp_path / "exp_avg-0").write_bytes(b"012345678X")
    check_files(tmp_path, manifest, ["model-0"])
    check_files(tmp_path, manifest, [])
    assert refused(lambda: check_files(tmp_path, manifest))[2].startswith("a file of the checkpoint was changed: its ")
    (tmp_path / "exp_avg-0").write_bytes(b"0")
    message = "a file of the checkpoint has 1 bytes, and was written with 10 bytes"
    assert refused(lambda: check_files(tmp_path, manifest, []))[2] == message
    (tmp_path / "exp_avg-0").unlink()
    message = "a file of the checkpoint is missing, and was written with 10 bytes"
    assert refused(lambda: check_files(tmp_path, manifest, []))[2] == message


def test_another_batch_or_dropout_is_the_same_model_and_another_width_is_not(tmp_path: Path) -> None:
    facts = manifest_of().facts
    check_model(facts, changed(tiny_model(), name="other", dropout=0.5, global_batch=16, precision="fp32"), tmp_path)
    rule, code, message, detail = refused(
        lambda: check_model(facts, tiny_model(hidden_size=32, tied_embeddings=False), tmp_path)
    )
    assert (rule, code) == ("CKP003", ExitCode.NEGATIVE)
    assert message == "the checkpoint is of another model than the plan's: 2 fields differ"
    assert detail.splitlines() == [
        "hidden_size: 16 in the checkpoint, 32 in the plan",
        "tied_embeddings: True in the checkpoint, False in the plan",
    ]


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"x": file_of("model", {**SHAPES, "a.weight": (2, 4)})}, "model of a.weight has shape [2, 4], the model's is"),
        ({"x": file_of("model", {"a.weight": (4, 2)})}, "model of b.bias is missing"),
        ({"x": file_of("model", {**SHAPES, "c": (1,)})}, "model of c belongs to no parameter of the model"),
        ({"x": file_of("model", SHAPES), "y": file_of("model", {"b.bias": (3,)})}, "model of b.bias is there twice"),
    ],
)
def test_every_tensor_is_there_once_and_whole(files: dict[str, TensorFile], wrong: str, tmp_path: Path) -> None:
    manifest = manifest_of(files={**files, "m": file_of("exp_avg", SHAPES), "v": file_of("exp_avg_sq", SHAPES)})
    rule, _, message, detail = refused(lambda: check_tensors(manifest, SHAPES, tmp_path))
    assert rule == "CKP003"
    assert message == "1 tensors of the checkpoint are not those of the model"
    assert detail.startswith(wrong)


def test_moments_are_missing_only_before_the_first_update(tmp_path: Path) -> None:
    weights = {"x": file_of("model", SHAPES)}
    assert (
        "exp_avg of a.weight is missing"
        in refused(lambda: check_tensors(manifest_of(files=weights), SHAPES, tmp_path))[3]
    )
    begun = msgspec.structs.replace(manifest_of().facts, optimizer_step=0)
    check_tensors(manifest_of(files=weights, facts=begun), SHAPES, tmp_path)
