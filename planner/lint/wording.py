"""Messages of the rule table in the words of the framework that a file is written for."""

import re
from collections.abc import Mapping

_PHRASES = {
    "tensor_parallel": ("tensor parallel degree", "tensor_parallel"),
    "pipeline_parallel": ("pipeline_parallel",),
    "tensor_mode": ("tensor mode", "tensor_mode"),
    "tensor_depth": ("tensor depth", "tensor_depth"),
    "micro_batch": ("micro_batch",),
    "num_microbatches": ("num_microbatches",),
    "zero_stage": ("ZeRO stage", "zero_stage"),
    "sequence_parallel": ("sequence_parallel",),
    "num_model_chunks": ("num_model_chunks",),
    "layers_per_stage": ("layers_per_stage",),
    "seq_len": ("--seq-len",),
    "schedule": ("schedule =",),
}
"""How the rule table speaks of a layout field."""


def reworded(text: str, names: Mapping[str, str]) -> str:
    """``text`` with the framework's name in place of each layout field that it has a name for."""
    phrases = {
        phrase: names[field] + (" =" if phrase.endswith(" =") else "")
        for field, spoken in _PHRASES.items()
        if names.get(field)
        for phrase in spoken
    }
    if not phrases:
        return text
    pattern = "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))
    return re.sub(rf"(?<![\w-])(?:{pattern})(?!\w)", lambda match: phrases[match[0]], text)
