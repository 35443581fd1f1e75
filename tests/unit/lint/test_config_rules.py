"""Rules of configurations: every one is broken and kept by a file, and its texts read like messages."""

import re
from pathlib import Path

import pytest

from planner.diagnostics import Diagnostic
from planner.launch.drives import file_system
from planner.lint.check import read_and_judge
from planner.lint.config_rule import ConfigRule
from planner.lint.dialects import nvme
from planner.lint.dialects.nvme import INSTALL_LIBAIO
from planner.lint.dialects.plugins.keys import ARGUMENTS, REQUIRED
from planner.lint.draft import Asked
from planner.lint.files import language_of
from planner.lint.registry import CONFIG_RULES, EVERY_RULE
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec
from tests.unit.lint import (
    config_rule_cases,
    deepspeed_rule_cases,
    megatron_rule_cases,
    plugin_rule_cases,
    tabled_rule_cases,
)
from tests.unit.lint.config_rule_cases import Case, deepspeed

CASES = (
    *config_rule_cases.CASES,
    *plugin_rule_cases.CASES,
    *megatron_rule_cases.CASES,
    *deepspeed_rule_cases.CASES,
    *tabled_rule_cases.CASES,
)
ON_OTHER_MACHINES = {"NVM001", "NVM002", "NVM003"}
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
EACH_RULE = pytest.mark.parametrize("rule", CONFIG_RULES, ids=lambda rule: rule.id)
A100 = load_spec("a100-40g", HardwareSpec)
SMALL = load_spec("gpt2-small", ModelSpec)
NVME_FILE = deepspeed(
    '"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/data/states"}}'
)


def found(name: str, text: str, gpus: int = 8, model: ModelSpec | None = None) -> list[Diagnostic]:
    asked = Asked(gpus=gpus, hardware=A100, devices_per_node=8, model=model)
    _, judged = read_and_judge(text, name, language_of(text, name), asked)
    return [diagnostic for one in judged for diagnostic in one.diagnostics]


def model_of(case: Case) -> ModelSpec | None:
    return load_spec(case.model, ModelSpec) if case.model else None


def test_every_rule_has_a_case() -> None:
    assert sorted({case.rule for case in CASES} | ON_OTHER_MACHINES) == sorted(rule.id for rule in CONFIG_RULES)


def test_ids_are_unique_and_well_formed() -> None:
    ids = [rule.id for rule in EVERY_RULE]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Z]{2,3}[0-9]{3}", rule_id) for rule_id in ids)


@EACH_CASE
def test_broken(case: Case) -> None:
    messages = {d.rule: d.message for d in found(case.name, case.broken, case.gpus, model_of(case))}
    assert messages.get(case.rule) == case.message


@EACH_CASE
def test_kept(case: Case) -> None:
    assert case.rule not in {diagnostic.rule for diagnostic in found(case.name, case.kept, case.gpus, model_of(case))}


@EACH_CASE
def test_kept_files_break_nothing(case: Case) -> None:
    model = SMALL if case.name.endswith("json") else model_of(case)
    errors = [d for d in found(case.name, case.kept, case.gpus, model) if d.severity == "error"]
    assert errors == [] or case.rule in ("HPP016", "GEM007", "MEG005")


@EACH_CASE
def test_findings_have_a_place_and_one_hint(case: Case) -> None:
    for diagnostic in found(case.name, case.broken, case.gpus, model_of(case)):
        assert diagnostic.location.startswith(case.name)
        assert diagnostic.hint
        assert "\n" not in diagnostic.message + diagnostic.hint + diagnostic.location


@EACH_RULE
def test_texts_read_like_messages(rule: ConfigRule) -> None:
    for text in (rule.title, rule.message, rule.detail, rule.hint):
        assert text
        assert not text.endswith(".")
    assert rule.why.endswith(".")
    assert rule.source
    assert rule.fact in rule.needs


@EACH_RULE
def test_a_rule_that_lacks_a_fact_says_nothing(rule: ConfigRule) -> None:
    assert rule.holds_for({})


def test_nvme_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(nvme, "file_system", lambda folder: file_system(folder, mounts))
    messages = {d.rule: d for d in found("a.json", NVME_FILE)}
    assert messages["NVM001"].message == "nvme_path /data/states is on nfs4, which is no local file system"
    assert messages["NVM001"].severity == "error"


def test_nvme_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1024**2})
    monkeypatch.setattr("planner.lint.dialects.nvme.shutil.disk_usage", lambda folder: usage)
    text = NVME_FILE.replace("/data/states", str(tmp_path))
    messages = {d.rule: d.message for d in found("a.json", text, model=load_spec("gpt3-13b", ModelSpec))}
    assert messages["NVM002"].startswith("the states need 143.")
    assert f"nvme_path {tmp_path} has 1.00 MiB free" in messages["NVM002"]


def test_libaio_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvme, "has_libaio", lambda: False)
    messages = {d.rule: d for d in found("a.json", NVME_FILE)}
    assert INSTALL_LIBAIO == "apt update && apt install libaio-dev"
    assert INSTALL_LIBAIO in messages["NVM003"].hint


@pytest.mark.runtime
def test_plugin_arguments_are_those_of_the_library() -> None:
    import ast
    import importlib.util

    spec = importlib.util.find_spec("colossalai")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Colossal-AI is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "booster" / "plugin"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*_plugin.py")]
    classes = {n.name: n for tree in trees for n in tree.body if isinstance(n, ast.ClassDef)}
    for name, arguments in ARGUMENTS.items():
        init = next(n for n in classes[name].body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        assert tuple(argument.arg for argument in init.args.args[1:]) == arguments
        assert arguments[: len(arguments) - len(init.args.defaults)] == REQUIRED.get(name, ())
