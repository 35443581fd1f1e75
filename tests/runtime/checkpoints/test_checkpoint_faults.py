"""Saving beside training, saving that fails, and checkpoints that are not what they should be."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from planner.checkpoints.exporting import export_weights
from planner.checkpoints.folders import checkpoints_in
from planner.checkpoints.manifest import encode, read_manifest
from planner.diagnostics import ExitCode, PlanError
from planner.plans.plan import Plan
from tests.runtime.checkpoints.test_checkpoints import HUB, PP2, TP2
from tests.runtime.saving import bit_differences, facts, go_on, make, save, tensors
from tests.runtime.training import SEED, MakePlan, Ranks

pytestmark = pytest.mark.runtime

ZERO: dict[str, Any] = {"data_parallel": 2, "zero_stage": 1, "precision": "bf16"}


def saver_of(engine: Any, plan: Plan, folder: Path, **settings: Any) -> Any:
    from runtime.checkpoints.saving import Saver

    return Saver(engine, folder, facts(plan), **{"asynchronous": False} | settings)


def refusal(work: Callable[[], object]) -> tuple[str, int, str]:
    """Rule, exit code and message of what a call refuses."""
    with pytest.raises(PlanError) as caught:
        work()
    found = caught.value.diagnostics[0]
    return found.rule, caught.value.exit_code, f"{found.message}\n{found.detail}"


def test_what_is_written_beside_training_is_what_was_there(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    chosen = plan(**ZERO, model={"vocab_size": 256})  # without padding

    def copied(rank: int) -> tuple[int, list[Any]]:
        from runtime.checkpoints.saving import Progress

        engine = make(chosen, SEED)
        go_on(engine, chosen, range(1))
        waited = save(engine, chosen, tmp_path / "waited", 1)
        saver = saver_of(engine, chosen, tmp_path / "beside", asynchronous=True)
        saves = [saver.save(Progress(1, 8))]
        go_on(engine, chosen, range(1, 3))  # while it is written
        first = saver.finish()
        saves += [saver.save(Progress(3, 24)), saver.poll()]
        go_on(engine, chosen, range(3, 4))
        assert bit_differences(waited, saver.finish().written.folder) != []
        assert bit_differences(waited, first.written.folder) == []
        assert first.stall_s < first.total_s
        return saver.copied_bytes, [*saves[:2], saver.finish()]

    found = ranks(2, copied)
    # Neither save is waited for, and nothing is told twice.
    assert all(told == [None, None, None] for _, told in found)
    parameters = sum(tensor.numel() for _, tensor in tensors(tmp_path / "waited" / "step-00000001")) // 3
    # Every element is copied on one rank alone, three times float32.
    assert sum(copied_bytes for copied_bytes, _ in found) == 12 * parameters
    shares = [copied_bytes for copied_bytes, _ in found]
    assert max(shares) < 1.01 * min(shares)


def test_all_ranks_write_about_equally_much(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    model = {"num_layers": 8, "vocab_size": 256}
    chosen = plan(model=model, data_parallel=2, **TP2)
    ranks(4, lambda rank: save(make(chosen, SEED), chosen, tmp_path, 0) and None)
    sizes = [path.stat().st_size for path in (tmp_path / "step-00000000").glob("model-*")]
    assert len(sizes) == 4
    assert max(sizes) < 1.3 * min(sizes)


def test_before_the_first_update_there_are_no_moments(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    chosen, other = plan(**ZERO), plan(**PP2, precision="bf16")

    def begun(rank: int) -> tuple[list[str], bool]:
        from runtime.checkpoints.loading import load

        first = save(make(chosen, SEED), chosen, tmp_path / "first", 0)
        engine = make(other)
        manifest = load(engine, first)
        again = save(engine, other, tmp_path / "again", 0)
        losses = go_on(engine, other, range(2))
        return bit_differences(first, again), losses == go_on(make(other, SEED), other, range(2)) and not (
            manifest.facts.optimizer_step
        )

    assert ranks(2, begun) == [([], True)] * 2
    assert {path.name.partition("-")[0] for path in (tmp_path / "first").rglob("*.safetensors")} == {"model"}


@pytest.mark.parametrize("rank_without_room", [0, 1])
@pytest.mark.parametrize("asynchronous", [True, False], ids=["beside", "waiting"])
def test_a_full_drive_of_one_rank_loses_nothing_that_was_whole(
    rank_without_room: int, asynchronous: bool, plan: MakePlan, ranks: Ranks, tmp_path: Path
) -> None:
    chosen = plan(**ZERO)

    def filled(rank: int) -> tuple[str, list[str], list[str], list[str]]:
        from runtime.checkpoints import tensor_file
        from runtime.checkpoints.saving import Progress

        engine = make(chosen, SEED)
        saver = saver_of(engine, chosen, tmp_path, asynchronous=asynchronous)
        go_on(engine, chosen, range(1))
        assert (saver.save(Progress(1, 8)) or saver.finish()).written.failure is None
        written = tensor_file.TensorWriter._write

        def full(self: Any, content: Any) -> None:
            if self._kind == "exp_avg" and self._num_bytes > 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written(self, content)

        if rank == rank_without_room:
            tensor_file.TensorWriter._write = full  # type: ignore[method-assign]
        failed = saver.save(Progress(2, 16)) or saver.finish()
        there = sorted(path.name for path in tmp_path.glob("step-*"))
        torch.distributed.barrier()
        tensor_file.TensorWriter._write = written  # type: ignore[method-assign]
        later = saver.save(Progress(3, 24)) or saver.finish()
        assert later.written.failure is None
        found = failed.written.failure
        return found.rule, [found.message], there, sorted(path.name for path in tmp_path.glob("step-*"))

    message = f"rank {rank_without_room} could not write the checkpoint: No space left on device"
    for found in ranks(2, filled):
        assert found == ("RUN011", [message], ["step-00000001"], ["step-00000001", "step-00000003"])


def test_a_folder_that_cannot_be_made_is_told_to_all_ranks(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    chosen = plan(**ZERO)
    (tmp_path / "taken").touch()

    def refused(rank: int) -> tuple[str, str]:
        from runtime.checkpoints.saving import Progress

        failure = saver_of(make(chosen), chosen, tmp_path / "taken").save(Progress(0, 0)).written.failure
        return failure.rule, failure.message

    assert ranks(2, refused) == [("CKP005", "rank 0 could not write the checkpoint: Not a directory")] * 2


def test_a_rank_that_dies_while_it_writes_leaves_the_last_one_whole(
    plan: MakePlan, ranks: Ranks, tmp_path: Path
) -> None:
    chosen = plan(**ZERO)

    def killed(rank: int) -> None:
        from runtime.checkpoints import tensor_file
        from runtime.checkpoints.saving import Progress

        engine = make(chosen, SEED)
        saver = saver_of(engine, chosen, tmp_path)
        go_on(engine, chosen, range(1))
        saver.save(Progress(1, 8))
        finish = tensor_file.TensorWriter.finish

        def die(self: Any) -> Any:
            if rank == 1 and self._kind == "exp_avg":
                os.kill(os.getpid(), signal.SIGKILL)
            return finish(self)

        tensor_file.TensorWriter.finish = die  # type: ignore[method-assign]
        saver.save(Progress(2, 16))

    with pytest.raises(AssertionError, match="ended with -9"):
        ranks(2, killed)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000002.part"]

    def resumed(rank: int) -> Any:
        from runtime.checkpoints.loading import load

        engine = make(chosen)
        assert checkpoints_in(tmp_path) == [tmp_path / "step-00000001"]
        load(engine, tmp_path / "step-00000001")
        losses = go_on(engine, chosen, range(1, 2))
        save(engine, chosen, tmp_path, 2)
        return losses

    undisturbed = ranks(2, lambda rank: go_on(make(chosen, SEED), chosen, range(2))[1:])
    assert ranks(2, resumed) == undisturbed
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000002"]


def damage_a_byte(checkpoint: Path) -> None:
    with (checkpoint / "exp_avg-00001.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")


def damage_the_length(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model-00000.safetensors", 1000)


def damage_by_leaving_out(checkpoint: Path) -> None:
    (checkpoint / "exp_avg_sq-00000.safetensors").unlink()


def damage_the_manifest(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"step": 1', '"step": 2'))


def damage_by_cutting_off(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])


def damage_by_another_shape(checkpoint: Path) -> None:
    """As if the writer had been wrong, with digests that are right."""
    manifest = read_manifest(checkpoint)
    name = "model-00000.safetensors"
    file = manifest.files[name]
    tensor = next(iter(file.tensors))
    wrong = msgspec.structs.replace(file, tensors={**file.tensors, tensor: (1, 2)})
    changed = msgspec.structs.replace(manifest, files={**manifest.files, name: wrong})
    (checkpoint / "manifest.json").write_bytes(encode(changed))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "byte": (damage_a_byte, "CKP002", "a file of the checkpoint was changed: its SHA-256 is "),
    "length": (damage_the_length, "CKP002", "a file of the checkpoint has 1000 bytes, and was written with "),
    "missing": (damage_by_leaving_out, "CKP002", "a file of the checkpoint is missing, and was written with "),
    "manifest": (damage_the_manifest, "CKP002", "the manifest was changed after gptplan wrote it\n"),
    "cut-off": (damage_by_cutting_off, "CKP002", "the manifest is no whole JSON document: "),
    "shape": (damage_by_another_shape, "CKP003", "1 tensors of the checkpoint are not those of the model\nmodel of "),
}


def test_what_is_not_whole_or_of_another_model_changes_nothing(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    chosen, deeper = plan(**ZERO), plan(**ZERO, model={"num_layers": 6, "hidden_size": 64})

    def written(rank: int) -> None:
        engine = make(chosen, SEED)
        go_on(engine, chosen, range(1))
        save(engine, chosen, tmp_path, 1)

    ranks(2, written)
    for name, (work, _, _) in DAMAGES.items():
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
        work(tmp_path / name)

    def refused(rank: int) -> tuple[dict[str, tuple[str, int, str]], tuple[str, int, str], bool]:
        from runtime.checkpoints.loading import load

        engine = make(chosen, SEED)
        found = {name: refusal(lambda name=name: load(engine, tmp_path / name)) for name in DAMAGES}  # type: ignore[misc]
        other = refusal(lambda: load(make(deeper), tmp_path / "step-00000001"))
        return found, other, go_on(engine, chosen, range(1)) == go_on(make(chosen, SEED), chosen, range(1))

    for found, other, is_unchanged in ranks(2, refused):
        for name, (_, rule, message) in DAMAGES.items():
            assert found[name][:2] == (rule, ExitCode.NEGATIVE)
            assert found[name][2].startswith(message)
        assert other[:2] == ("CKP003", ExitCode.NEGATIVE)
        assert "num_layers: 4 in the checkpoint, 6 in the plan\nhidden_size: 32 in the checkpoint, 64" in other[2]
        assert is_unchanged


def test_an_optimizer_whose_states_are_not_known_is_refused_before_training(
    plan: MakePlan, ranks: Ranks, tmp_path: Path
) -> None:
    from tests.runtime.training import make_engine

    chosen = plan(**TP2)

    def refused(rank: int) -> tuple[str, int, str]:
        return refusal(lambda: saver_of(make_engine(chosen), chosen, tmp_path))

    message = "the states of SGD are not those of AdamW, which checkpoints hold\n"
    assert ranks(2, refused) == [("CKP004", ExitCode.NEGATIVE, message)] * 2


def test_transformers_reads_the_folder(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    """Weights under its names, whole and in its order: its own model has the loss that training has next."""
    chosen = plan(model={"vocab_size": 251}, **HUB)

    def written(rank: int) -> float:
        engine = make(chosen, SEED)
        go_on(engine, chosen, range(2))
        save(engine, chosen, tmp_path, 2)
        return go_on(engine, chosen, range(2, 3))[0]

    expected = ranks(4, written)[0]

    def read(rank: int) -> tuple[float, list[str]]:
        from transformers import GPT2LMHeadModel

        from tests.runtime.saving import batch_of

        model, about = GPT2LMHeadModel.from_pretrained(tmp_path / "step-00000002", output_loading_info=True)
        batch = batch_of(chosen, 2, slice(None))
        logits = model.eval()(batch["input_ids"]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        return float(loss), [*about["missing_keys"], *about["unexpected_keys"], *about["mismatched_keys"]]

    ((loss, wrong),) = ranks(1, read)
    assert wrong == []
    assert loss == pytest.approx(expected, rel=1e-6)


def test_weights_that_were_exported_begin_a_run_of_any_layout(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    """Also from one file, in another precision, and by the names of a model's body alone."""
    chosen = plan(model={"vocab_size": 251}, **PP2)
    layouts = [plan(model={"vocab_size": 251}, **fields) for fields in (TP2, PP2, {"data_parallel": 2})]
    halves = plan(model={"vocab_size": 251}, **ZERO)
    other = plan(model={"vocab_size": 251, "num_heads": 2, "ffn_hidden_size": 128}, **TP2)

    def begun(rank: int) -> tuple[list[float], list[list[float]], float, tuple[str, int, str]]:
        from transformers import GPT2LMHeadModel

        from runtime.checkpoints.loading import start_from

        engine = make(chosen, SEED)
        go_on(engine, chosen, range(2))
        save(engine, chosen, tmp_path, 2)
        if rank == 0:
            export_weights(tmp_path, tmp_path / "hf")
            model = GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
            model.transformer.save_pretrained(tmp_path / "body")
            model.bfloat16().save_pretrained(tmp_path / "bf16")
        torch.distributed.barrier()
        expected, found = go_on(engine, chosen, range(2, 3)), []
        for layout, name in zip(layouts, ("hf", "body", "step-00000002"), strict=True):
            engine = make(layout)
            start_from(engine, tmp_path / name)
            found.append(go_on(engine, layout, range(2, 3)))
        engine = make(halves)
        start_from(engine, tmp_path / "bf16")
        return (
            expected,
            found,
            go_on(engine, halves, range(2, 3))[0],
            refusal(lambda: start_from(make(other), tmp_path / "hf")),
        )

    for expected, found, rounded, (rule, code, message) in ranks(2, begun):
        assert found == [pytest.approx(expected, rel=1e-6)] * 3
        assert rounded == pytest.approx(expected[0], rel=1e-3)
        assert (rule, code) == ("CKP003", ExitCode.USAGE)
        assert "transformer.h.0.mlp.c_fc.weight has shape [32, 64], the model's is [32, 128]" in message
