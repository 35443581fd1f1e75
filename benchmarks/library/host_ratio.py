"""What the host takes for one kind of block as a multiple of another: ``python -m benchmarks.library.host_ratio``.

Tiny blocks are issued in turn, so that a machine that is busy with other things slows all of them: on the CPU, or with
``200 cuda`` behind the command 200 rounds of them on a GPU. The ratios are properties of the code more than of the
host: by them host times that were measured on one machine with one kind of block are carried over to another machine,
of which the host time of another kind of block is known.
"""

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from runtime.calibrate.host import BlockTimer, gpt2_blocks
from runtime.calibrate.timing import wait
from runtime.states.families import ATTENTION
from runtime.states.model import causal_attention

ROUNDS = 200
OWN = "gptplan's GPT-2"


def timers(device: torch.device) -> dict[str, BlockTimer]:
    """What is measured, by name; gptplan's block is Hugging Face's with another attention and GELU in one kernel."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, causal_attention)
    library = gpt2_blocks(device)
    own = gpt2_blocks(device, attn_implementation=ATTENTION, activation_function="gelu_pytorch_tanh")

    def again(block: Any, *, use_reentrant: bool) -> Any:
        return partial(checkpoint, block, use_reentrant=use_reentrant, preserve_rng_state=True)

    blocks: dict[str, list[Any]] = {
        "Hugging Face's GPT-2": list(library),
        "Hugging Face's GPT-2, recomputed": [again(block, use_reentrant=True) for block in library],
        OWN: list(own),
        "gptplan's GPT-2, recomputed": [again(block, use_reentrant=False) for block in own],
    }
    # On a GPU backward is issued by a thread of its own.
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    return {name: BlockTimer(some, device, clock) for name, some in blocks.items()}


def measured(rounds: int, device: torch.device) -> dict[str, list[tuple[float, float]]]:
    """Seconds of forward and of backward of one block, by name and round."""
    found = timers(device)
    for timer in found.values():
        timer.seconds()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, timer in found.items():
            seconds[name].append(timer.seconds())
            wait(device)
    return seconds


def main() -> None:
    """Print the time of each kind of block, forward's share, and its multiple of the time of gptplan's; medians."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.library.host_ratio")
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    parser.add_argument("device", choices=("cpu", "cuda"), nargs="?", default="cpu")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"rounds is {options.rounds}: measure 1 or more, such as {ROUNDS}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here: measure on `cpu`")
    seconds = measured(options.rounds, torch.device(options.device))
    own = [sum(both) for both in seconds[OWN]]
    for name, samples in seconds.items():
        whole = [sum(both) for both in samples]
        ratios = sorted(one / other for one, other in zip(whole, own, strict=True))
        low, high = (ratios[round((len(ratios) - 1) * share)] for share in (0.25, 0.75))
        forward = statistics.median(first / both for (first, _), both in zip(samples, whole, strict=True))
        print(
            f"{name}: {statistics.median(whole) * 1e3:.2f} ms a block, forward {forward:.0%} of it, "
            f"{statistics.median(ratios):.2f} times gptplan's (half of the rounds: {low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
