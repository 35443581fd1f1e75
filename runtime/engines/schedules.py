"""What the pipeline schedules of the library have to be told when a batch is another one, or only goes forward."""

import contextlib
from collections.abc import Iterator
from typing import Any

from colossalai.pipeline.schedule.interleaved_pp import InterleavedSchedule

from runtime.engines.zero_bubble import ZeroBubbleV

_SHAPES_UNKNOWN = {
    "send_tensor_metadata": True,
    "send_grad_metadata": True,
    "tensor_metadata_recv": None,
    "grad_metadata_recv": None,
}
"""What a schedule of the library begins with."""


def _forget_shapes(schedule: Any) -> None:
    if isinstance(schedule, ZeroBubbleV):
        schedule.forget_shapes()
    else:
        vars(schedule).update(_SHAPES_UNKNOWN)


def resize(schedule: Any, num_microbatches: int, micro_batch: int) -> None:
    """Have a schedule run so many micro batches of ``micro_batch`` sequences from now on.

    It would refuse to train on a batch of another size than the last one, and without gradients forget for good what
    the stages send each other (colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:90-105).
    """
    name = "num_microbatch" if hasattr(schedule, "num_microbatch") else "num_microbatches"
    setattr(schedule, name, num_microbatches)
    schedule.last_batch_size = num_microbatches * micro_batch


@contextlib.contextmanager
def forward_only(schedule: Any) -> Iterator[None]:
    """Run a schedule without gradients; afterwards it trains as if it had not.

    What the stages send each other is described once, and whether it has a gradient is part of that. The interleaved
    schedule also drops the handle of its very last send, and gloo the message with it.
    """
    _forget_shapes(schedule)
    if isinstance(schedule, InterleavedSchedule):
        send = schedule.send_forward

        def send_and_wait(*what: Any) -> list[Any]:
            for handle in send(*what):
                handle.wait()
            return []

        schedule.send_forward = send_and_wait
    try:
        yield
    finally:
        vars(schedule).pop("send_forward", None)
        _forget_shapes(schedule)
