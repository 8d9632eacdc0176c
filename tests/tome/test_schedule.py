"""The number of tokens that each block merges away."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_core import InputError
from tome.schedule import Cost, Target, parse, per_block, reachable, solve, spread, token_counts

PAPER = [  # schedules of the original, some of which lose tokens to truncation
    (8, 12, (8,) * 12),
    ((16, -1), 12, (32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0)),
    ((16, 1), 12, (0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32)),
    ((8, -0.5), 4, (12, 9, 6, 4)),
    ([3, 0, 7], 4, (3, 0, 7, 0)),
    ([3, -2], 2, (3, 0)),
    (5, 1, (5,)),
]
LISTS = [(3, 0, 7, 0), (3,), range(3), np.array([3, 0, 7]), np.array([9, 1]), np.int64(3), np.float32(0.5), [9, 1]]


@pytest.mark.filterwarnings("ignore:r has")
@pytest.mark.parametrize(("r", "depth", "expected"), PAPER)
def test_schedules_of_the_original(r, depth, expected):
    assert per_block(r, depth) == expected
    assert parse(r, None, None, depth) == expected


@pytest.mark.filterwarnings("ignore:r has")
@pytest.mark.parametrize("r", LISTS, ids=repr)
def test_other_kinds_of_lists_and_numbers(r):
    assert parse(r, None, None, 4) == parse(r.tolist() if hasattr(r, "tolist") else list(r), None, None, 4)


@pytest.mark.parametrize("r", ["34", b"34", {3, 4}, np.array([1.5]), (3, "4", 5), (8, 4)], ids=repr)
def test_other_lists_than_of_integers_are_refused_in_one_line(r):
    with pytest.raises(InputError, match=r"^r( is|=).*(it can be|a list has)") as caught:
        parse(r, None, None, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("r", "tokens", "left"), [(16, 197, 11), (13, 197, 41), (8, 197, 101)])
def test_tokens_left_of_a_base_model(r, tokens, left):
    assert token_counts(per_block(r, 12), tokens, prefix=1)[-1] == left


@given(
    share=st.floats(0.05, 1),
    of=st.sampled_from(["flops", "tokens"]),
    tokens=st.integers(16, 600),
    depth=st.integers(2, 32),
    prefix=st.integers(0, 5),
)
def test_a_target_is_met_as_closely_as_whole_tokens_allow(share, of, tokens, depth, prefix):
    cost = Cost(attention=4 * 64**2, mlp=8 * 64**2, pair=2 * 64)
    r = solve(Target(share, of), tokens, prefix, depth, cost)

    def left(r):
        counts = token_counts(r, tokens, prefix)
        if of == "tokens":
            return (counts[-1] - prefix) / (tokens - prefix)
        blocks = sum(cost.flops(before, after) for before, after in itertools.pairwise(counts))
        return blocks / (depth * cost.flops(tokens, tokens))

    assert max(r) - min(r) <= 1
    reachable = left((tokens,) * depth)
    one_token = 2 * depth / tokens if of == "tokens" else 1.5 / tokens + 0.01
    assert left(r) == pytest.approx(max(share, reachable), abs=max(one_token, 0.02))


def share_left(r, of, tokens, prefix, cost):
    counts = [tokens, *token_counts(r, tokens, prefix)[1:]]
    if of == "tokens":
        return (counts[-1] - prefix) / (tokens - prefix)
    work = sum(cost.attention * a + cost.pair * a * a + cost.mlp * b for a, b in itertools.pairwise(counts))
    return work / (len(r) * (cost.attention * tokens + cost.pair * tokens**2 + cost.mlp * tokens))


def test_no_other_even_schedule_is_closer_to_a_target():
    choose = random.Random(0)
    for _ in range(150):
        of, depth, prefix = choose.choice(["flops", "tokens"]), choose.randint(1, 12), choose.randint(0, 5)
        tokens, share = choose.randint(20, 200), choose.uniform(0.05, 1)
        cost, target = Cost(attention=400, mlp=700, pair=30), Target(share, of)
        r = solve(target, tokens, prefix, depth, cost)
        solved = share_left(r, of, tokens, prefix, cost)
        mean = sum(r) // depth  # `spread` changes at fractions of up to ``depth``; the share only falls
        near = {m / j for j in range(1, depth + 1) for m in range(j * max(0, mean - 1), j * (mean + 2) + 1)}
        best = min(abs(share_left(spread(step, depth), of, tokens, prefix, cost) - share) for step in near)
        assert abs(solved - share) <= best + 1e-12
        least = share_left((tokens,) * depth, of, tokens, prefix, cost)
        assert reachable(target, tokens, prefix, depth, cost) == pytest.approx(least)


def test_tokens_of_blocks_that_merge_more_than_there_are():
    assert token_counts([100, 100], 10, prefix=2) == [10, 6, 4]
    assert token_counts([3, -2, 1], 10, prefix=0) == [10, 7, 7, 6]
    assert token_counts([5], 3, prefix=3) == [3, 3]


def test_the_cost_of_a_block():
    assert Cost(attention=2, mlp=3, pair=5).flops(before=7, after=4) == 2 * 7 + 5 * 49 + 3 * 4
