"""Reading spec files: what is wrong with one is said with its place and what to type instead."""

from pathlib import Path
from typing import Any

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.files import did_you_mean, from_builtins, load_spec, spec_digest, specs_root, to_builtins
from tests.helpers import tiny_hardware, tiny_model, tiny_stack


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("gpt3-13", "did you mean `gpt3-13b`?"), ("gpt3-13b", "did you mean `gpt3-13b`?"), ("llama", ""), ("", "")],
)
def test_did_you_mean(typed: str, expected: str) -> None:
    assert did_you_mean(typed, ["gpt3-13b", "gpt2-small"]) == expected


@pytest.mark.parametrize("spec", [tiny_model(), tiny_hardware(), tiny_stack()], ids=["model", "hardware", "stack"])
def test_builtins_round_trip(spec: ModelSpec | HardwareSpec | StackSpec) -> None:
    assert from_builtins(to_builtins(spec), type(spec)) == spec


def test_the_digest_is_of_the_content() -> None:
    assert spec_digest(tiny_model()) == spec_digest(tiny_model())
    assert spec_digest(tiny_model()) != spec_digest(tiny_model(num_layers=5))


def test_comments_do_not_change_the_digest(tmp_path: Path) -> None:
    text = (specs_root() / "models" / "gpt2-small.toml").read_text()
    copy = tmp_path / "copy.toml"
    copy.write_text("# mine\n\n" + text)
    assert spec_digest(load_spec(str(copy), ModelSpec)) == spec_digest(load_spec("gpt2-small", ModelSpec))


def refused(name: str, kind: Any = ModelSpec) -> tuple[str, str]:
    with pytest.raises(PlanError) as raised:
        load_spec(name, kind)
    assert raised.value.exit_code == ExitCode.USAGE
    (diagnostic,) = raised.value.diagnostics
    return diagnostic.message, diagnostic.location


def test_a_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert refused(path) == ("cannot read the spec: No such file or directory", path)


def test_a_folder(tmp_path: Path) -> None:
    """Of a model it is one of the Hugging Face Hub, which has a config.json."""
    assert refused(str(tmp_path)) == ("cannot read the config: No such file or directory", str(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name = ", b"{}"])
def test_what_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    assert refused(str(path))[0].startswith("the spec is not TOML: ")


def test_an_empty_file_lacks_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    assert refused(str(path))[0] == "the spec is not valid: Object missing required field `name`"


def test_a_huge_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"#" * (1024**2 + 1))
    assert refused(str(path))[0] == "the spec file is larger than 1 MiB"


def test_a_spec_of_another_kind_is_not_found() -> None:
    assert refused("gpt2-small", HardwareSpec)[0] == "there is no hardware spec named `gpt2-small`"


@pytest.mark.parametrize(
    ("kind", "builtin", "old", "new", "message"),
    [
        (ModelSpec, "models/gpt3-13b", "hidden_size = 5120", "hidden_size = 5121", "5121 % 40 = 1"),
        (
            ModelSpec,
            "models/gpt3-13b",
            "\nseq_len = 2048",
            "\nseq_len = 4096",
            "4096 is longer than `max_seq_len` 2048",
        ),
        (HardwareSpec, "hardware/a100-40g", "[1.0e8, 0.04]", "[1.0e12, 0.04]", "rising FLOP"),
        (HardwareSpec, "hardware/a100-40g", "efficiency = 0.70", "efficiency = 0.0", "`$.node_link.efficiency`"),
        (HardwareSpec, "hardware/a100-40g", '"1555 GB/s"', '"0 GB/s"', "above 0"),
        (HardwareSpec, "hardware/a100-40g", 'name = "a100-40g"', 'name = "../x"', "`$.name`"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(
    kind: type[Any], builtin: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    text = (specs_root() / f"{builtin}.toml").read_text()
    assert old in text
    path = tmp_path / "odd.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(PlanError, match="not valid") as raised:
        load_spec(str(path), kind)
    assert raised.value.exit_code == 2
    assert message in raised.value.diagnostics[0].message
