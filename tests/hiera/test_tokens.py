"""The order of tokens: its closed form, its inverse, and pooling as a maximum over the grid."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera.tokens import official_order, pool, reroll, reroll_units, unroll


def test_closed_form_of_the_token_order():
    """y = 8 my + 4 y3 + 2 y2 + y1; index = ((((y1 x1) y2) x2) y3) x3 in bits, times the units, plus the unit."""
    height, width = 16, 24
    units = (height // 8) * (width // 8)
    grid = torch.arange(height * width).view(1, height, width, 1)
    order = official_order(unroll(grid, (2, 2), 3)).flatten()
    for y in range(height):
        for x in range(width):
            bits = [(y & 1), (x & 1), (y >> 1) & 1, (x >> 1) & 1, (y >> 2) & 1, (x >> 2) & 1]
            inside = int("".join(map(str, bits)), 2)
            assert order[inside * units + (y // 8) * (width // 8) + x // 8] == y * width + x


@given(
    stride=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    steps=st.integers(0, 3),
    units=st.lists(st.integers(1, 3), min_size=3, max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_reroll_inverts_unroll_after_any_number_of_poolings(stride, steps, units):
    units = units[: len(stride)]
    grid = [u * s**steps for u, s in zip(units, stride, strict=True)]
    x = torch.rand(2, *grid, 3)
    tokens = unroll(x, stride, steps)
    assert torch.equal(reroll(tokens, units, stride, steps), x)
    for left in range(steps, 0, -1):  # pooling tokens is pooling the grid
        tokens = pool(tokens, math.prod(stride))
        x = spatial_max(x, stride)
        assert torch.equal(reroll(tokens, units, stride, left - 1), x)


def spatial_max(x, stride):
    for axis, s in enumerate(stride, start=1):
        x = x.unflatten(axis, (-1, s)).amax(axis + 1)
    return x


def test_units_keep_their_spatial_order():
    x = torch.rand(2, 8, 16, 3)
    expected = x.view(2, 2, 4, 4, 4, 3).permute(0, 1, 3, 2, 4, 5).flatten(1, 2)
    assert torch.equal(reroll_units(unroll(x, (2, 2), 2), (2, 2), 2), expected)
