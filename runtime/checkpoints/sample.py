"""Some text from the weights of a checkpoint; started as ``-m runtime.checkpoints.sample CHECKPOINT OPTIONS``.

The options are :class:`planner.handover.work.SampleOptions` as JSON.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from planner.data.tokenizers import BYTES, load_tokenizer
from planner.diagnostics import PlanError, render
from planner.handover.options import decode
from planner.handover.work import SampleOptions
from planner.outputs import say, tell
from runtime.patches.quiet import quieten_libraries


def main(arguments: Sequence[str]) -> int:
    """Write the text to stdout; the exit code says how it ended."""
    quieten_libraries()
    try:
        tell(text_from(Path(arguments[0]), decode(arguments[1], SampleOptions)))
    except PlanError as error:
        say("\n".join(map(render, error.diagnostics)))
        return error.exit_code
    return 0


def text_from(checkpoint: Path, options: SampleOptions) -> str:
    """The prompt and what the model makes of it, as far as its longest sequence allows."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = load_tokenizer(str(options.tokenizer or BYTES))
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    longest, known = model.config.max_position_embeddings, model.config.vocab_size
    # A token at least to begin with, and room for one.
    tokens: list[int] = tokenizer.encode([options.prompt], np.dtype(np.int64))[0].tolist()
    prompt = (tokens or [tokenizer.end_of_document])[-(longest - 1) :]
    room = longest - len(prompt)
    if room < options.tokens:
        say(f"the model's sequences have {longest} tokens: {room} are written after {len(prompt)} of the prompt")
    torch.manual_seed(options.seed)
    choosing = {"do_sample": True, "temperature": options.temperature, "top_k": 0} if options.temperature else {}
    written = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=min(room, options.tokens),
        eos_token_id=None,
        pad_token_id=0,
        suppress_tokens=list(range(tokenizer.vocab_size, known)) or None,
        **(choosing or {"do_sample": False}),
    )
    return tokenizer.decode(written[0].tolist())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
