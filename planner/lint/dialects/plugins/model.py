"""The model that a script trains, by its name or by transformers' GPT2Config."""

from planner.lint.dialects.plugins.keys import GPT2_CONFIG, MODEL
from planner.lint.draft import UNDECIDED
from planner.lint.model_names import model_named, model_of_sizes
from planner.lint.reading import Keys, Reading
from planner.lint.source import Call, Symbol, Unknown
from planner.specs import ModelSpec


def read_model(context: Keys, reading: Reading) -> None:
    """The model that the user, the script's GPT2Config or a name in the file says."""
    source = reading.source
    reading.model = reading.model or _described_model(reading)
    if reading.model is None:
        named = context.plain(*MODEL, name="model")
        reading.model = model_named(named) if isinstance(named, str) else None
    if reading.model is not None:
        reading.tell(model=reading.model.name if reading.model.family == "gpt2" else None)
        hidden = [source.settings[key] for key in MODEL if key in source.settings]
        reading.needless_lines |= {value.line for value in hidden if isinstance(value.content, Unknown)}
        reading.needless_lines |= {call.line for call in source.others}


def _described_model(reading: Reading) -> ModelSpec | None:
    """The model of the script's one call of GPT2Config; what is wrong with its sizes goes into ``reading``.

    Nothing where there is no call, where several differ, or where an argument is only known when it runs.
    """
    calls = [call for call in reading.source.others if call.name == GPT2_CONFIG]
    written = [{key: value.content for key, value in call.arguments.items()} for call in calls]
    if not calls or any(one != written[0] for one in written) or any(map(_is_hidden, calls)):
        return None
    reading.settings = {**reading.settings, **calls[0].arguments}
    return _gpt2_model(Keys(reading, calls[0].arguments), reading)


def _is_hidden(call: Call) -> bool:
    return not call.complete or any(isinstance(value.content, Unknown | Symbol) for value in call.arguments.values())


def _gpt2_model(keys: Keys, reading: Reading) -> ModelSpec | None:
    """Defaults and other names are those of transformers 4.51.3, models/gpt2/configuration_gpt2.py."""
    layers = keys.count("n_layer", "num_hidden_layers", default=12)
    hidden = keys.count("n_embd", "hidden_size", default=768, name="n_embd")
    heads = keys.count("n_head", "num_attention_heads", default=12, name="n_head")
    positions = keys.count("n_positions", "max_position_embeddings", default=1024)
    vocab, ffn = keys.count("vocab_size", default=50257), keys.count("n_inner")
    dropout, tied = keys.number("resid_pdrop", default=0.1), keys.flag("tie_word_embeddings", default=True)
    reading.tell(n_embd=hidden, n_head=heads)
    reading.keys = {"n_embd": "n_embd", "n_head": "n_head"} | reading.keys
    if UNDECIDED in (layers, hidden, heads, positions, vocab, ffn, dropout, tied) or not 0 <= dropout < 1:
        return None
    return model_of_sizes(
        "the model of GPT2Config",
        "GPT2Config in the file",
        name=f"gpt2-{layers}x{hidden}",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        ffn_hidden_size=ffn or 4 * hidden,
        vocab_size=vocab,
        max_seq_len=positions,
        seq_len=min(reading.known("seq_len") or positions, positions),
        dropout=dropout,
        tied_embeddings=tied,
    )
