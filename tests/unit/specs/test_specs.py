"""The built-in specs load, cite a source for every number and agree with what is published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from docs.specs_page import documented, tables
from planner.diagnostics import PlanError
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.base import Spec
from planner.specs.files import FOLDERS, builtin_names, load_spec, specs_root

GPT3_SIZES = ("125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b", "175b")
GPT2_NAMES = ("gpt2-tiny", "gpt2-small", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
MODEL_NAMES = (*GPT2_NAMES, *(f"gpt3-{size}" for size in GPT3_SIZES), "gpt3")
NEWER = ("b200", "l40s", "gh200", "a10g", "l4", "rtx4090", "mi300x")
HARDWARE_NAMES = ("a100-40g", "a100-80g", "h100-80g", "h200-141g", "v100-32g", "local-cpu", *NEWER)
STACK_NAMES = ("colossalai", "megatron")
PROMISED = [
    *((ModelSpec, name) for name in MODEL_NAMES),
    *((HardwareSpec, name) for name in HARDWARE_NAMES),
    *((StackSpec, name) for name in STACK_NAMES),
]
EVERY_SPEC = [(kind, name) for kind in FOLDERS for name in builtin_names(kind)]
MODELS = builtin_names(ModelSpec)
HARDWARE = builtin_names(HardwareSpec)
STACKS = builtin_names(StackSpec)


def stated_fields(value: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """Keys and values of the fields that are not their defaults."""
    for field in msgspec.structs.fields(value):
        if getattr(value, field.name) != field.default:
            yield field.encode_name, getattr(value, field.name)


def numeric_paths(value: Any, path: str = "") -> Iterator[str]:
    """Dotted TOML paths of all numbers under ``value`` but defaults; a list of numbers is one path."""
    if isinstance(value, msgspec.Struct):
        for key, entry in stated_fields(value):
            yield from numeric_paths(entry, f"{path}.{key}".lstrip("."))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from numeric_paths(entry, f"{path}.{key}")
    elif isinstance(value, tuple):
        if any(True for entry in value for _ in numeric_paths(entry, path)):
            yield path
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def all_paths(value: Any, path: str = "") -> Iterator[str]:
    """Dotted TOML paths of all fields and tables under ``value``."""
    if path:
        yield path
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            yield from all_paths(getattr(value, field.name), f"{path}.{field.encode_name}".lstrip("."))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from all_paths(entry, f"{path}.{key}")


def prefixes(path: str) -> set[str]:
    """``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    parts = path.split(".")
    return {".".join(parts[: end + 1]) for end in range(len(parts))}


def parameter_count(model: ModelSpec) -> int:
    """Parameters of a GPT-2 block stack with tied embeddings, counted by hand."""
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    attention = 3 * hidden * hidden + 3 * hidden + hidden * hidden + hidden
    feed_forward = hidden * inner + inner + inner * hidden + hidden
    embeddings = model.vocab_size * hidden + model.max_seq_len * hidden
    return model.num_layers * (attention + feed_forward + 4 * hidden) + embeddings + 2 * hidden


def write_spec(folder: Path, name: str, replace: str, by: str) -> str:
    """A copy of the built-in model ``name`` with one piece of its text replaced."""
    text = (specs_root() / "models" / f"{name}.toml").read_text()
    assert replace in text
    path = folder / "changed.toml"
    path.write_text(text.replace(replace, by, 1))
    return str(path)


@pytest.mark.parametrize(("kind", "name"), PROMISED)
def test_promised_name_loads(kind: type[Any], name: str) -> None:
    assert load_spec(name, kind).title


@pytest.mark.parametrize(("kind", "name"), EVERY_SPEC)
def test_name_is_the_file_name(kind: type[Any], name: str) -> None:
    assert load_spec(name, kind).name == name


@pytest.mark.parametrize(("kind", "name"), EVERY_SPEC)
def test_every_number_has_a_source(kind: type[Any], name: str) -> None:
    spec = load_spec(name, kind)
    missing = [path for path in numeric_paths(spec) if not prefixes(path) & spec.sources.keys()]
    assert missing == []


@pytest.mark.parametrize(("kind", "name"), EVERY_SPEC)
def test_every_source_names_a_field(kind: type[Any], name: str) -> None:
    spec = load_spec(name, kind)
    assert spec.sources.keys() - set(all_paths(spec)) == set()


@pytest.mark.parametrize(("kind", "name"), EVERY_SPEC)
def test_no_source_is_empty(kind: type[Any], name: str) -> None:
    assert all(citation.strip() for citation in load_spec(name, kind).sources.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_gpt2_has_the_parameters_of_the_released_checkpoint(name: str, parameters: int) -> None:
    assert parameter_count(load_spec(name, ModelSpec)) == parameters


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt3-125m", 125e6),
        ("gpt3-350m", 356e6),
        ("gpt3-760m", 760e6),
        ("gpt3-1.3b", 1.3e9),
        ("gpt3-2.7b", 2.7e9),
        ("gpt3-6.7b", 6.7e9),
        ("gpt3-13b", 13.0e9),
        ("gpt3-175b", 175e9),
    ],
)
def test_gpt3_has_the_size_of_table_2_1(name: str, published: float) -> None:
    assert parameter_count(load_spec(name, ModelSpec)) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_model_shape_is_consistent(name: str) -> None:
    model = load_spec(name, ModelSpec)
    assert model.hidden_size % model.num_heads == 0
    assert model.ffn_hidden_size == 4 * model.hidden_size or model.mlp.gated
    assert model.seq_len <= model.max_seq_len


@pytest.mark.parametrize("name", HARDWARE)
def test_matmul_curve_rises_and_stays_below_the_peak(name: str) -> None:
    flops, shares = zip(*load_spec(name, HardwareSpec).efficiency.matmul, strict=True)
    assert list(flops) == sorted(set(flops))
    best = shares.index(max(shares))
    assert list(shares[: best + 1]) == sorted(shares[: best + 1])
    # Long products lower the clock, by no more than a sixth.
    assert list(shares[best:]) == sorted(shares[best:], reverse=True)
    assert shares[-1] > 5 / 6 * shares[best]
    assert max(shares) < 1.0


@pytest.mark.parametrize("name", HARDWARE)
def test_hardware_is_consistent(name: str) -> None:
    hardware = load_spec(name, HardwareSpec)
    assert hardware.context_bytes < hardware.memory_bytes
    assert hardware.communicator_bytes < hardware.context_bytes
    assert hardware.network.oversubscription >= 1.0
    assert "fp32" in hardware.peak_flops_per_s


def test_v100_has_no_bf16() -> None:
    assert "bf16" not in load_spec("v100-32g", HardwareSpec).peak_flops_per_s


def test_a100_peak_is_dense() -> None:
    assert load_spec("a100-40g", HardwareSpec).peak_flops_per_s["bf16"] == 312e12


@pytest.mark.parametrize("name", STACKS)
def test_stack_is_consistent(name: str) -> None:
    stack = load_spec(name, StackSpec)
    assert set(stack.zero_stages_with_pipeline) <= set(stack.zero_stages)
    assert set(stack.zero_stages_with_accumulation) <= set(stack.zero_stages)
    assert "none" in stack.tensor_modes
    assert "none" in stack.schedules
    assert "none" in stack.offload_tiers
    assert 0.0 in stack.offload_optimizer_fractions


def test_colossalai_keeps_sixteen_bytes_a_parameter() -> None:
    kept = load_spec("colossalai", StackSpec).mixed_precision
    assert kept.weight + kept.gradient + kept.master + kept.moments == 16


def test_megatron_activations_are_those_of_korthikanti() -> None:
    kept = load_spec("megatron", StackSpec).activations
    assert 2 * kept.replicated_elements + kept.dropout_mask_bytes == 10
    assert 2 * kept.sharded_elements == 24


@pytest.mark.parametrize(
    ("replace", "by", "message", "hint"),
    [
        ("hidden_size", "hiden_size", "unknown key `hiden_size`", "did you mean `hidden_size`?"),
        ('precision = "fp16"', 'precision = "fp17"', "fp17", "docs/specs.md says what each key takes"),
        ("num_layers = 12", "num_layers = 0", "num_layers", "docs/specs.md says what each key takes"),
    ],
)
def test_bad_model_spec_says_what_is_wrong(tmp_path: Path, replace: str, by: str, message: str, hint: str) -> None:
    with pytest.raises(PlanError) as raised:
        load_spec(write_spec(tmp_path, "gpt2-small", replace, by), ModelSpec)
    (diagnostic,) = raised.value.diagnostics
    assert message in diagnostic.message
    assert diagnostic.hint == hint
    assert diagnostic.location.endswith("changed.toml")


@pytest.mark.parametrize("value", ['"40 gigs"', '"40"', "40", '"312 TFLOP/s"'])
def test_bad_unit_gives_one_message_that_names_the_field(tmp_path: Path, value: str) -> None:
    text = (specs_root() / "hardware" / "a100-40g.toml").read_text()
    path = tmp_path / "card.toml"
    path.write_text(text.replace('"39.39 GiB"', value, 1))
    with pytest.raises(PlanError) as raised:
        load_spec(str(path), HardwareSpec)
    (diagnostic,) = raised.value.diagnostics
    assert value.strip('"') in diagnostic.message
    assert "$.memory" in diagnostic.message


def test_unknown_key_in_a_table_is_named_with_its_path(tmp_path: Path) -> None:
    text = (specs_root() / "hardware" / "a100-40g.toml").read_text()
    path = tmp_path / "card.toml"
    path.write_text(text.replace("nics_per_node", "nic_per_node", 1))
    with pytest.raises(PlanError) as raised:
        load_spec(str(path), HardwareSpec)
    (diagnostic,) = raised.value.diagnostics
    assert diagnostic.message == "unknown key `network.nic_per_node`"
    assert diagnostic.hint == "did you mean `nics_per_node`?"


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PlanError) as raised:
        load_spec("gpt3-175", ModelSpec)
    assert raised.value.diagnostics[0].hint.startswith("did you mean `gpt3-175b`?")


def structs(kind: type[Spec]) -> Iterator[type[Spec]]:
    yield kind
    for table, _ in tables(kind):
        yield from structs(table)


@pytest.mark.parametrize("kind", [struct for kind in FOLDERS for struct in structs(kind)])
def test_every_field_is_documented(kind: type[Spec]) -> None:
    texts = documented(kind)
    assert list(texts) == [field.name for field in msgspec.structs.fields(kind)]
    assert all(text.endswith(".") for text, _ in texts.values())
