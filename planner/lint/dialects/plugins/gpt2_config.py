"""The model that a script describes with transformers' GPT2Config."""

from planner.lint.dialects.plugins.arguments import GPT2_CONFIG
from planner.lint.draft import UNDECIDED, Draft, Keys
from planner.lint.model_names import model_of_sizes
from planner.lint.source import Call, Source, Symbol, Unknown
from planner.specs import ModelSpec


def described_model(source: Source, draft: Draft) -> ModelSpec | None:
    """The model of the script's one call of GPT2Config; what is wrong with its sizes goes into ``draft``.

    Nothing where there is no call, where several differ, or where an argument is only known when it runs.
    """
    calls = [call for call in source.others if call.name == GPT2_CONFIG]
    written = [{key: value.content for key, value in call.arguments.items()} for call in calls]
    if not calls or any(one != written[0] for one in written) or any(map(_is_hidden, calls)):
        return None
    draft.settings = {**draft.settings, **calls[0].arguments}
    return _model(Keys(source, calls[0].arguments, draft), draft)


def _is_hidden(call: Call) -> bool:
    return not call.complete or any(isinstance(value.content, Unknown | Symbol) for value in call.arguments.values())


def _model(keys: Keys, draft: Draft) -> ModelSpec | None:
    """Defaults and other names are those of transformers 4.51.3, models/gpt2/configuration_gpt2.py."""
    layers = keys.count("n_layer", "num_hidden_layers", default=12)
    hidden = keys.count("n_embd", "hidden_size", default=768, name="n_embd")
    heads = keys.count("n_head", "num_attention_heads", default=12, name="n_head")
    positions = keys.count("n_positions", "max_position_embeddings", default=1024)
    vocab, ffn = keys.count("vocab_size", default=50257), keys.count("n_inner")
    dropout, tied = keys.number("resid_pdrop", default=0.1), keys.flag("tie_word_embeddings", default=True)
    sizes = {"n_embd": hidden, "n_head": heads}
    draft.facts |= {name: size for name, size in sizes.items() if size is not UNDECIDED}
    draft.keys = {name: name for name in sizes} | draft.keys
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
        seq_len=min(draft.known("seq_len") or positions, positions),
        dropout=dropout,
        tied_embeddings=tied,
    )
