"""Where things stand on the street."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from segdistill.data.datasets.streets._canvas import Canvas
from segdistill.data.datasets.streets._cars import render_car
from segdistill.data.datasets.streets._props import (
    render_bin,
    render_lamp_post,
    render_person,
    render_sign,
    render_tree,
)

LAST_DISTANCE = 50
"""Meters to the last thing in a row; farther away they would be a few pixels high."""

Render = Callable[[Canvas, float, float], None]
"""Paints a thing at x and z, as the camera sees it."""


class Thing(NamedTuple):
    """Something on the street."""

    z: float
    x: float
    """Meters right of the middle of the street."""
    render: Render


class _Row(NamedTuple):
    """Things of a kind that stand one behind the other along the street."""

    x: float
    """Meters right of the middle of the street."""
    first: float
    """Distance before which none stands."""
    step: float
    """Usual distance between two places."""
    probability: float
    """Share of places that are taken, 0 to 1."""
    render: Render


def place_things(canvas: Canvas) -> Iterator[Thing]:
    """Yield all that stands on the street."""
    for side in (-1, 1):
        for row in _rows(canvas, side):
            yield from _stand_in_row(canvas, row)
        for _ in range(canvas.rng.integers(1, 6)):
            nearness = canvas.rng.random()
            z = 4.5 + 25 * nearness * nearness  # most of them near enough to be seen
            yield Thing(z, side * canvas.between(canvas.road + 0.4, canvas.walk), render_person)
    for _ in range(canvas.rng.integers(3)):  # on the zebra crossing
        z = canvas.crossing - canvas.between(2, 4)
        yield Thing(z, canvas.between(-canvas.road, canvas.road), render_person)


def _rows(canvas: Canvas, side: int) -> list[_Row]:
    """Return the rows on one side of the street, some of them rare or empty in a scene."""
    parked = canvas.between(-0.4, 0.8)
    trees = canvas.between(-0.1, 0.8)
    lamps = canvas.between(0.3, 1)
    road, walk = canvas.road, canvas.walk
    return [
        _Row(side * (road - 1.1), first=4, step=6, probability=parked, render=render_car),
        _Row(side * road / 2, first=8, step=14, probability=0.5, render=render_car),
        _Row(side * (walk - 0.4), first=5, step=8, probability=trees, render=render_tree),
        _Row(side * (walk - 0.7), first=5, step=20, probability=0.4, render=render_bin),
        _Row(side * (road + 0.4), first=4, step=16, probability=lamps, render=render_lamp_post),
        _Row(side * (road + 0.7), first=5, step=14, probability=0.6, render=render_sign),
    ]


def _stand_in_row(canvas: Canvas, row: _Row) -> Iterator[Thing]:
    """Yield the things of a row; the side street and the zebra crossing stay free."""
    z = row.first + canvas.between(0, row.step)
    while z < LAST_DISTANCE:
        is_taken = canvas.chance(row.probability)
        if is_taken and not canvas.crossing - 5 < z < canvas.crossing + 7:
            yield Thing(z, row.x, row.render)
        z += row.step * canvas.between(0.8, 1.3)
