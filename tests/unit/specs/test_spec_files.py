"""Reading spec files: what is wrong with one is said with its place and what to type instead."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect as types

from docs.specs_page import tables
from planner.diagnostics import ExitCode, PlanError
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.files import FOLDERS, did_you_mean, from_builtins, load_spec, spec_digest, specs_root, to_builtins
from tests.helpers import tiny_hardware, tiny_model, tiny_stack


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("gpt3-13", "did you mean `gpt3-13b`?"),
        ("gpt3-13b", "did you mean `gpt3-13b`?"),
        ("llama", ""),
        ("", ""),
        ("GPT3", "did you mean `gpt3-13b`?"),
    ],
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
    message, _ = refused(str(path))
    assert message.startswith("the spec is not valid: missing required keys `name`, `title`, `num_layers`, ")


def findings(path: Path, kind: Any) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as raised:
        load_spec(str(path), kind)
    assert {one.location for one in raised.value.diagnostics} == {str(path)}
    return [(one.message, one.hint) for one in raised.value.diagnostics]


WRONG = {
    ModelSpec: (
        "gpt2-small",
        {"hidden_size": "hiden_size", "vocab_size = 50257": "", "num_heads = 12": "num_heads = 0"},
    ),
    HardwareSpec: ("a100-40g", {"oversubscription": "oversubscriptoin", 'latency = "': 'x = "', '"39.39 GiB"': "39"}),
    StackSpec: ("colossalai", {"[overlap]": "[overlaps]", "uneven_stages": "uneven", "fragmentation": "fragment"}),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_everything_that_is_wrong_is_said_at_once(kind: Any, tmp_path: Path) -> None:
    name, edits = WRONG[kind]
    text = (specs_root() / FOLDERS[kind] / f"{name}.toml").read_text()
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    said = "\n".join("\n".join(one) for one in findings(path, kind))
    expected = {
        ModelSpec: ["unknown key `hiden_size`", "did you mean `hidden_size`?", "`vocab_size`", "`$.num_heads`"],
        HardwareSpec: ["`network.oversubscriptoin`", "`node_link.x`", "`node_link.latency`", "`39` has no unit"],
        StackSpec: ["unknown key `overlaps`", "unknown key `uneven`", "unknown key `fragment`"],
    }
    assert [words for words in expected[kind] if words not in said] == []


@pytest.mark.parametrize(
    ("kind", "builtin", "old", "new", "bound"),
    [
        (ModelSpec, "models/gpt3-13b", "num_layers = 40", "num_layers = 1000000", "<= 1024"),
        (HardwareSpec, "hardware/a100-40g", '"1555 GB/s"', '"1e30 TB/s"', "is not from 1 B/s to 1,000,000 TB/s"),
        (HardwareSpec, "hardware/a100-40g", '"39.39 GiB"', '"9e9 TiB"', "is not from 0 B to 1,024 TiB"),
        (HardwareSpec, "hardware/a100-40g", "device_names = [", "device_names = [" + "'x', " * 65, "<= 64"),
    ],
)
def test_numbers_and_lists_have_bounds(kind: Any, builtin: str, old: str, new: str, bound: str, tmp_path: Path) -> None:
    text = (specs_root() / f"{builtin}.toml").read_text()
    assert old in text
    path = tmp_path / "large.toml"
    path.write_text(text.replace(old, new, 1))
    ((message, _),) = findings(path, kind)
    assert bound in message


def test_every_number_of_a_spec_has_bounds() -> None:
    def unbounded(kind: types.Type) -> bool:
        if isinstance(kind, types.IntType | types.FloatType):
            return kind.le is None or (kind.ge is None and kind.gt is None)
        if isinstance(kind, types.VarTupleType | types.ListType):
            return kind.max_length is None or unbounded(kind.item_type)
        inner = [kind.value_type] if isinstance(kind, types.DictType) else getattr(kind, "types", [])
        inner = [*inner, *getattr(kind, "item_types", []), *([kind.type] if isinstance(kind, types.Metadata) else [])]
        return any(map(unbounded, inner))

    def fields(kind: Any) -> Iterator[tuple[str, types.Type]]:
        info = types.type_info(kind)
        assert isinstance(info, types.StructType)
        for field in info.fields:
            yield f"{kind.__name__}.{field.name}", field.type
        for table, _ in tables(kind):
            yield from fields(table)

    assert [name for kind in FOLDERS for name, of in fields(kind) if unbounded(of)] == []


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
        (HardwareSpec, "hardware/a100-40g", '"1555 GB/s"', '"0 GB/s"', "is not from 1 B/s"),
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


@pytest.mark.parametrize(
    ("kind", "path", "said"),
    [
        (ModelSpec, "hardware/a100-40g", "this is a hardware spec, and a model spec is asked for"),
        (StackSpec, "models/gpt2-tiny", "this is a model spec, and a stack spec is asked for"),
        (HardwareSpec, "stacks/colossalai", "this is a stack spec, and a hardware spec is asked for"),
    ],
)
def test_a_spec_of_another_kind_is_named_once(kind: Any, path: str, said: str) -> None:
    file = specs_root() / f"{path}.toml"
    ((message, hint),) = findings(file, kind)
    assert message == said
    assert hint.startswith("use `--")


def test_what_was_typed_and_what_may_be_is_said(tmp_path: Path) -> None:
    text = (specs_root() / "hardware" / "a100-40g.toml").read_text()
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace('device = "cuda"', 'device = "tpu"').replace("alignment = 64", "alignment = -64"))
    (first, hint), (second, _) = findings(path, HardwareSpec)
    assert "Expected one of `cuda`, `cpu`, and it is 'tpu' - at `$.device`" in first
    assert "Expected `int` >= 1, and it is -64 - at `$.efficiency.alignment`" in second
    assert "docs/specs.md" in hint


def test_where_many_names_begin_as_typed_only_these_are_listed() -> None:
    with pytest.raises(PlanError) as refused:
        load_spec("Qwen", ModelSpec)
    hint = refused.value.diagnostics[0].hint
    assert hint.startswith("use one of qwen2-tiny, qwen2.5-0.5b, ")
    assert "gpt" not in hint
