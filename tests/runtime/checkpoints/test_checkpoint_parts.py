"""How a rank's tensor lies in a whole parameter: what is cut is what is put together, whatever divides it."""

import itertools

import pytest
import torch

from planner.diagnostics import PlanError
from runtime.checkpoints.parts import Part, blocked_part, tensor_part, vocabulary_part, whole_part
from runtime.checkpoints.routes import Route, Source, _check_complete, _joined

WHOLE = torch.arange(24 * 36.0).view(24, 36)


def together(parts: list[Part], whole: torch.Tensor) -> torch.Tensor:
    sources = tuple(Source(rank, part, 0, part.num_elements) for rank, part in enumerate(parts))
    route = Route("weight", tuple(whole.shape), 0, sources)
    _check_complete(route)
    return _joined(route, {part: part.cut(whole) for part in parts})


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_columns_and_rows_are_told_by_their_shapes(degree: int, axis: int) -> None:
    shape = [length // (degree if number == axis else 1) for number, length in enumerate(WHOLE.shape)]
    found = [tensor_part(shape, WHOLE.shape, rank=rank, degree=degree) for rank in range(degree)]
    parts = [part for part in found if part is not None]
    assert torch.equal(together(list(dict.fromkeys(parts)), WHOLE), WHOLE)
    for rank, part in enumerate(parts):
        assert torch.equal(part.cut(WHOLE).view(shape), WHOLE.chunk(degree, axis)[rank])


@pytest.mark.parametrize("degree", [2, 4])
def test_queries_keys_and_values_are_divided_one_by_one(degree: int) -> None:
    thirds = WHOLE.split(12, dim=1)
    found = [
        tensor_part((24, 36 // degree), WHOLE.shape, rank=rank, degree=degree, fused=(12, 12, 12))
        for rank in range(degree)
    ]
    parts = [part for part in found if part is not None]
    for rank, part in enumerate(parts):
        wanted = torch.cat([third.chunk(degree, 1)[rank] for third in thirds], dim=1)
        assert torch.equal(part.cut(WHOLE).view(24, -1), wanted)
    assert torch.equal(together(parts, WHOLE), WHOLE)
    bias = WHOLE[0]
    of_bias = [tensor_part((36 // degree,), (36,), rank=r, degree=degree, fused=(12, 12, 12)) for r in range(degree)]
    assert torch.equal(together([part for part in of_bias if part is not None], bias), bias)


@pytest.mark.parametrize(("rows", "degree"), [(6, 4), (8, 4), (12, 2), (24, 2), (32, 1)])
def test_padding_of_the_vocabulary_is_cut_and_comes_back_as_zeros(rows: int, degree: int) -> None:
    """Also where a rank has nothing but padding, with the shape of the whole vocabulary."""
    parts = [vocabulary_part((rows, 36), WHOLE.shape, rank) for rank in range(degree)]
    assert torch.equal(together(parts, WHOLE), WHOLE)
    padded = torch.cat([WHOLE, torch.zeros(rows * degree - 24, 36)])
    for rank, part in enumerate(parts):
        assert torch.equal(part.cut(WHOLE).view(rows, 36), padded[rank * rows : (rank + 1) * rows])


@pytest.mark.parametrize("edges", [(0, 864), (0, 1, 864), (0, 5, 36, 37, 500, 864), (0, 432, 864)])
def test_a_flat_range_may_begin_and_end_anywhere(edges: tuple[int, ...]) -> None:
    for part in (whole_part(WHOLE.shape), tensor_part((24, 18), WHOLE.shape, rank=1, degree=2, fused=(12, 12, 12))):
        assert part is not None
        everything = part.cut(WHOLE)
        for start, stop in itertools.pairwise(min(edge, part.num_elements) for edge in edges):
            assert torch.equal(part.cut(WHOLE, start, stop), everything[start:stop])


def test_a_range_reads_no_more_rows_than_it_needs() -> None:
    asked = []

    class Spied:
        def __getitem__(self, ranges: tuple[slice, ...]) -> torch.Tensor:
            asked.append(ranges[0])
            return WHOLE[ranges]

    whole_part(WHOLE.shape).cut(Spied(), 40, 80)
    assert asked == [slice(1, 3)]


def test_no_division_gives_another_shape() -> None:
    assert tensor_part((24, 13), WHOLE.shape, rank=0, degree=2) is None
    assert tensor_part((12, 18), WHOLE.shape, rank=0, degree=2) is None
    assert tensor_part((24, 18), WHOLE.shape, rank=0, degree=2, fused=(12, 12)) is None


def test_parts_that_are_not_the_whole_are_refused() -> None:
    half = blocked_part((24, 18), WHOLE.shape, [[(0, 0, 24)], [(0, 0, 18)]])
    with pytest.raises(PlanError, match="the parts of `weight` make 432 of its 864 elements"):
        _check_complete(Route("weight", (24, 36), 0, (Source(0, half, 0, 432),)))
    whole = whole_part(WHOLE.shape)
    with pytest.raises(PlanError, match="elements 400 to 864 of a part of `weight` are on no rank"):
        _check_complete(Route("weight", (24, 36), 0, (Source(0, whole, 0, 400),)))
    with pytest.raises(PlanError, match="elements 400 to 300 of a part of `weight` are on no rank, or on two"):
        _check_complete(Route("weight", (24, 36), 0, (Source(0, whole, 0, 400), Source(1, whole, 300, 864))))
