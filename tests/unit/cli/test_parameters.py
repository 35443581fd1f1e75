"""Commands as they are made from structs: what is typed, what help says, what a shell completes."""

import pytest
import typer.main
from typer.core import TyperGroup

from planner.cli.app import COMMANDS, app
from planner.handover.options import declared
from tests.helpers import Run

NAMES = [one.__name__.replace("_", "-") for one in COMMANDS]


def test_every_field_of_a_struct_is_one_parameter() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    assert list(group.commands) == NAMES
    for name, function in zip(NAMES, COMMANDS, strict=True):
        options = {one.field: one for one in declared(function.__annotations__["options"])}
        parameters = {one.name: one for one in group.commands[name].params}
        assert list(options) == list(parameters)
        for field, one in options.items():
            if not one.option.is_argument:
                assert tuple(parameters[field].opts) == one.names
                assert parameters[field].secondary_opts == []


@pytest.mark.parametrize("name", NAMES)
def test_h_is_help(name: str, gptplan: Run) -> None:
    short, long = gptplan(name, "-h"), gptplan(name, "--help")
    assert short.code == 0
    assert short.out == long.out
    assert "-h, --help" in short.out


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("gptplan ver", {"verify"}),
        ("gptplan solve --model gpt3-1", {"gpt3-125m", "gpt3-1.3b", "gpt3-13b", "gpt3-175b"}),
        ("gptplan solve --gpu v100", {"v100-16g", "v100-32g"}),
        ("gptplan solve --stack fs", {"fsdp"}),
        ("gptplan sweep --model gpt2-t", {"gpt2-tiny"}),
        ("gptplan explain TP00", {"TP001", "TP002", "TP003", "TP004", "TP005", "TP006", "TP007"}),
        ("gptplan verify FILE.plan --without c", {"causal-attention"}),
    ],
)
def test_a_shell_completes(
    words: str, completed: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_GPTPLAN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit) as finished:
        typer.main.get_command(app).main(args=[], prog_name="gptplan")
    assert finished.value.code == 0
    assert {*capsys.readouterr().out.split()} == completed


@pytest.mark.parametrize("name", NAMES)
def test_help_says_bounds_and_defaults_once(name: str, gptplan: Run) -> None:
    text = " ".join(gptplan(name, "-h").out.split())
    function = COMMANDS[NAMES.index(name)]
    for one in declared(function.__annotations__["options"]):
        if one.option.range is not None:
            assert f"[{one.option.range}]" in text
    assert "list[" not in text.partition("Options:")[2]
    for part in text.split(" -")[1:]:
        assert part.count("[default:") <= 1, part
