"""Gradients averaged over data parallelism while the last micro batch of a step is still in backward.

Colossal-AI 0.5.0 reduces them after a pipeline's last backward, one parameter after the other and waiting for each
(booster/plugin/hybrid_parallel_plugin.py:161-183), and under ZeRO through buckets that gradients are copied into,
divided in and waited for by the host (zero/low_level/low_level_optim.py:327-391, 466-470).
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from runtime.engines.launches import at_once, reduce_scatter

BUCKET_BYTES = 24 * 2**20
"""Gradients that are reduced by one launch, at least: those of Colossal-AI's buckets."""
_IN_FLIGHT = 1
"""Buckets that are on their way, while one fills, where gradients are let go as soon as they are reduced."""


class _Bucket(NamedTuple):
    work: Any
    sources: list[Tensor]
    """What is read, kept until it was."""
    results: dict[Tensor, Tensor]
    """What it becomes, by parameter."""


class Reduction:
    """Averages the gradients of parameters over a group, in place, each as soon as it is complete.

    A gradient is complete when as many micro batches have added to it as a step has. Ranks of the group run the same
    backward, so that they start the same buckets in the same order.
    """

    every_microbatch = False

    def __init__(
        self,
        parameters: Sequence[Tensor],
        group: dist.ProcessGroup,
        num_microbatches: Callable[[], int],
        late: Collection[Tensor] = (),
    ) -> None:
        """Reduce ``parameters`` over ``group``; something is still added to ``late`` ones after the last backward."""
        self._parameters, self._group, self._num_microbatches = list(parameters), group, num_microbatches
        self._size, self._rank = dist.get_world_size(group), dist.get_rank(group)
        self._averages = dist.get_backend(group) == dist.Backend.NCCL  # gloo knows sums only
        self._operation = dist.ReduceOp.AVG if self._averages else dist.ReduceOp.SUM
        self._added: Counter[Tensor] = Counter()
        self._taken: set[Tensor] = set()
        self._filling: list[Tensor] = []
        self._started: list[_Bucket] = []
        self._late = set(late)
        for parameter in self._parameters:
            if parameter not in self._late:
                parameter.register_post_accumulate_grad_hook(self._add)  # type: ignore[no-untyped-call]

    def _add(self, parameter: Tensor) -> None:
        self._added[parameter] += 1
        if self.every_microbatch or self._added[parameter] == self._num_microbatches():
            self._take(parameter)

    def _take(self, parameter: Tensor) -> None:
        self._taken.add(parameter)
        self._filling.append(parameter)
        if sum(one.nbytes for one in self._filling) >= BUCKET_BYTES:
            self.start()

    def start(self) -> None:
        """Reduce what has been collected, without waiting for it."""
        if self._filling:
            self._started.append(self._reduce(self._filling))
            self._filling = []

    def finish(self) -> None:
        """Reduce what is left, the late ones too: after the last backward of a step."""
        for parameter in self._parameters:
            if parameter not in self._taken and parameter.grad is not None:
                self._take(parameter)
        self.start()

    def wait(self) -> None:
        """Have what follows on the device wait for the reduced gradients; the host does not."""
        while self._started:
            self._settle(self._started.pop(0))

    def reset(self) -> None:
        """Begin another step."""
        self.wait()
        self._added.clear()
        self._taken.clear()
        self._filling.clear()

    def _reduce(self, parameters: list[Tensor]) -> _Bucket:
        gradients = {one: _gradient(one) for one in parameters}
        with at_once(self._group) as reducing:
            for gradient in gradients.values():
                dist.all_reduce(gradient, self._operation, group=self._group)
        return _Bucket(reducing, [], gradients)

    def _settle(self, bucket: _Bucket) -> None:
        bucket.work.wait()
        if not self._averages:
            torch._foreach_div_(list(bucket.results.values()), self._size)


class Scattering(Reduction):
    """The same under ZeRO stage 1: of each gradient a rank has its own part, where it is in the whole.

    Half of the bytes of the all-reduce that Colossal-AI has for this stage.
    """

    shards: dict[Tensor, Tensor]
    """Of the parameters: the averaged gradient of this rank's part, flat, filled up to equal parts."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As of :class:`Reduction`."""
        super().__init__(*arguments, **settings)
        self.shards = {}

    def reset(self) -> None:
        """Begin another step."""
        super().reset()
        self.shards.clear()

    def _reduce(self, parameters: list[Tensor]) -> _Bucket:
        wholes = [self._whole(_gradient(one)) for one in parameters]
        parts = [self._part(whole) for whole in wholes]
        if not self._averages:
            torch._foreach_div_(wholes, self._size)
        with at_once(self._group) as reducing:
            for part, whole in zip(parts, wholes, strict=True):
                reduce_scatter(part, whole, self._operation, group=self._group)
        return _Bucket(reducing, wholes, dict(zip(parameters, parts, strict=True)))

    def _whole(self, gradient: Tensor) -> Tensor:
        flat = gradient.reshape(-1)
        missing = -flat.numel() % self._size
        return functional.pad(flat, (0, missing)) if missing else flat

    def _part(self, whole: Tensor) -> Tensor:
        return whole.chunk(self._size)[self._rank]

    def _settle(self, bucket: _Bucket) -> None:
        bucket.work.wait()
        self.shards.update(bucket.results)


class ScatteringAll(Scattering):
    """The same under ZeRO stage 2: after every micro batch, and the whole gradients are let go."""

    every_microbatch = True

    def _reduce(self, parameters: list[Tensor]) -> _Bucket:
        while len(self._started) > _IN_FLIGHT:
            self._settle(self._started.pop(0))
        bucket = super()._reduce(parameters)
        for parameter in parameters:
            parameter.grad = None
        return bucket

    def _part(self, whole: Tensor) -> Tensor:
        return whole.new_empty(whole.numel() // self._size)

    def _settle(self, bucket: _Bucket) -> None:
        bucket.work.wait()
        for parameter, result in bucket.results.items():
            if parameter in self.shards:
                self.shards[parameter].add_(result)
            else:
                self.shards[parameter] = result


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "it is complete"
    return parameter.grad
