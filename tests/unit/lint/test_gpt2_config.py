"""Models that training scripts describe with GPT2Config."""

import pytest

from planner.lint.check import read_and_judge
from planner.lint.draft import Asked
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec

H100 = load_spec("h100-80g", HardwareSpec)
PLUGIN = "plugin = HybridParallelPlugin(tp_size=2, pp_size=1)\n"


def model_of(text: str, **asked: object) -> tuple[ModelSpec | None, list[str]]:
    """The model that is found, and the rules of what is said."""
    options = Asked(**({"gpus": 4, "hardware": H100, "devices_per_node": 8, "model": None} | asked))  # type: ignore[arg-type]
    _, (judged,) = read_and_judge(text, "a.py", "python", options)
    return judged.draft.model, [one.rule for one in judged.diagnostics]


def test_a_model_of_its_own() -> None:
    model, rules = model_of(
        "L = 32\nmodel = GPT2LMHeadModel(GPT2Config(n_layer=L, n_embd=2560, n_head=32, n_positions=2048, n_inner=8192,"
        " resid_pdrop=0.0, vocab_size=51200, tie_word_embeddings=False))\n" + PLUGIN
    )
    assert model is not None
    assert (model.num_layers, model.hidden_size, model.num_heads, model.ffn_hidden_size) == (32, 2560, 32, 8192)
    assert (model.max_seq_len, model.seq_len, model.vocab_size, model.dropout) == (2048, 2048, 51200, 0.0)
    assert not model.tied_embeddings
    assert rules == []


def test_defaults_and_other_names_are_those_of_transformers() -> None:
    model, _ = model_of("config = GPT2Config()\nmodel = GPT2LMHeadModel(config)\n" + PLUGIN)
    assert model is not None
    small = load_spec("gpt2-small", ModelSpec)
    for name in ("num_layers", "hidden_size", "num_heads", "ffn_hidden_size", "vocab_size", "max_seq_len", "dropout"):
        assert getattr(model, name) == getattr(small, name)
    other, _ = model_of("def build():\n    return GPT2Config(50304, 512, num_hidden_layers=3, n_embd=48)\n" + PLUGIN)
    assert other is not None
    assert (other.vocab_size, other.max_seq_len, other.num_layers, other.hidden_size) == (50304, 512, 3, 48)


@pytest.mark.parametrize(
    "written",
    [
        "GPT2Config(n_layer=layers())",
        "GPT2Config(**load())",
        "GPT2Config(n_layer='12')",
        "GPT2Config(n_layer=0)",
        "GPT2Config(n_head=True)",
        "GPT2Config(n_embd=100)",
        "GPT2Config(resid_pdrop=2)",
        "GPT2Config(*sizes)",
        "(GPT2Config(n_layer=2), GPT2Config(n_layer=3))",
        "GPT2Config(n_layer=2**40)",
    ],
)
def test_what_cannot_be_told_or_be_is_no_model(written: str) -> None:
    assert model_of(f"config = {written}\n" + PLUGIN)[0] is None


def test_what_the_user_names_wins() -> None:
    small = load_spec("gpt2-small", ModelSpec)
    assert model_of("config = GPT2Config(n_layer=3)\n" + PLUGIN, model=small)[0] is small


def test_heads_are_judged_where_they_stand() -> None:
    text = "config = GPT2Config(n_embd=1024,\n    n_head=12)\n" + PLUGIN
    options = Asked(gpus=4, hardware=H100, devices_per_node=8, model=None)
    _, (judged,) = read_and_judge(text, "a.py", "python", options)
    (error,) = [one for one in judged.diagnostics if one.rule == "GPT001"]
    assert error.location == "a.py:2: n_head = 12"
    assert error.hint == "use n_head = 16, 8 or 4"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("n_layer=-3", "n_layer is -3, and it has to be a whole number from 1 to "),
        ("n_embd='a'", "n_embd is 'a', and it has to be a whole number from 1 to "),
        ("tie_word_embeddings=2", "tie_word_embeddings is 2, and it has to be true or false"),
    ],
)
def test_a_size_that_is_none_is_named(written: str, message: str) -> None:
    options = Asked(gpus=4, hardware=H100, devices_per_node=8, model=None)
    _, (judged,) = read_and_judge(f"config = GPT2Config({written})\n" + PLUGIN, "a.py", "python", options)
    (error,) = judged.errors
    assert (error.rule, error.message.startswith(message)) == ("CFG002", True)
    assert error.location.startswith("a.py:1: ")


def test_a_size_that_is_only_known_when_it_runs_is_no_error() -> None:
    for hidden in ("layers()", "LAYERS"):
        model, rules = model_of(f"from sizes import LAYERS\nGPT2Config(n_layer={hidden})\n" + PLUGIN)
        assert (model, [rule for rule in rules if rule == "CFG002"]) == (None, [])
