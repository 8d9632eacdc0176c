"""Layout tables: every step and every table maps out and back, on real tensors and on the meta device."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core import InputError
from plm_core.layouts import KEEP, Rule, Step, convert, foreign_names, reshape, split, stack, transpose, uninterleave

sizes = st.integers(0, 4)
shapes = st.lists(sizes, min_size=1, max_size=4)


@dataclass(frozen=True)
class Case:
    """A step, the shapes of its native tensors, and how many foreign ones there are."""

    step: Step
    native: tuple[tuple[int, ...], ...]
    foreign: int = 1


@st.composite
def keeps(draw):
    return Case(KEEP, (tuple(draw(shapes)),))


@st.composite
def transposes(draw):
    shape = draw(st.lists(sizes, min_size=2, max_size=4))
    dims = st.integers(-len(shape), len(shape) - 1)
    return Case(transpose(draw(dims), draw(dims)), (tuple(shape),))


@st.composite
def splits(draw):
    shape, parts = draw(shapes), draw(st.integers(1, 4))
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    shape[dim] = max(shape[dim], 1) * parts
    return Case(split(dim, parts), (tuple(shape),), parts)


@st.composite
def stacks(draw):
    shape, parts = tuple(draw(shapes)), draw(st.integers(1, 4))
    dim = draw(st.integers(-len(shape) - 1, len(shape)))
    return Case(stack(dim, parts), (shape,) * parts)


@st.composite
def reshapes(draw):
    factors = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))

    def shape():
        cut = draw(st.integers(0, len(factors)))
        return tuple(math.prod(run) for run in (factors[:cut], factors[cut:]))

    native, foreign = shape(), shape()
    return Case(reshape(native, draw(st.sampled_from([foreign, (-1, foreign[1])]))), (native,))


@st.composite
def uninterleaves(draw):
    heads, pairs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rest = draw(st.lists(sizes, max_size=2))  # none for a bias
    return Case(uninterleave(heads), ((2 * heads * pairs, *rest),))


plain = st.one_of(keeps(), transposes(), splits(), stacks(), reshapes(), uninterleaves())


@st.composite
def inverted(draw):
    case = draw(plain)
    foreign = case.step.to_foreign([torch.empty(shape) for shape in case.native])
    return Case(case.step.inverted("inverted"), tuple(tuple(t.shape) for t in foreign), len(case.native))


cases = plain | inverted()
on_meta = settings(deadline=None)  # torch's first operation on the meta device loads its decompositions


def numbered(shapes, dtype=torch.int64):
    """Tensors whose entries are all different, so that no permutation goes unnoticed."""
    starts = [sum(map(math.prod, shapes[:i])) for i in range(len(shapes))]
    return [torch.arange(n, n + math.prod(s), dtype=dtype).reshape(s) for n, s in zip(starts, shapes, strict=True)]


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not same(a[key], b[key])] == []


# --- steps ------------------------------------------------------------------------------------------------------


@given(cases, st.sampled_from([torch.int64, torch.bfloat16, torch.float64]))
def test_step_comes_back(case, dtype):
    native = numbered(case.native, dtype)
    foreign = case.step.to_foreign(native)
    assert len(foreign) == case.foreign
    back = case.step.to_native(foreign)
    assert all(map(same, back, native))
    assert all(map(same, case.step.to_foreign(back), foreign))


@on_meta
@given(cases)
def test_step_gives_the_same_shapes_on_meta(case):
    real = case.step.to_foreign(numbered(case.native))
    meta = case.step.to_foreign([t.to("meta") for t in numbered(case.native)])
    assert all(t.is_meta for t in meta)
    assert [t.shape for t in meta] == [t.shape for t in real]
    assert [t.shape for t in case.step.to_native(meta)] == [torch.Size(shape) for shape in case.native]


@pytest.mark.parametrize(
    ("step", "native", "foreign"),
    [
        (transpose(0, 1), [[[1, 2, 3], [4, 5, 6]]], [[[1, 4], [2, 5], [3, 6]]]),
        (split(0, 3), [[1, 2, 3, 4, 5, 6]], [[1, 2], [3, 4], [5, 6]]),
        (split(1, 2), [[[1, 2], [3, 4]]], [[[1], [3]], [[2], [4]]]),
        (stack(0, 2), [[1, 2], [3, 4]], [[[1, 2], [3, 4]]]),
        (stack(1, 2), [[1, 2], [3, 4]], [[[1, 3], [2, 4]]]),
        (reshape((4,), (2, 2)), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]),
        (split(0, 2).inverted("join"), [[1, 2], [3, 4]], [[1, 2, 3, 4]]),
        # one head: foreign rows are the pairs (0 1)(2 3)(4 5); native rows have the first of every pair first
        (uninterleave(1), [[0, 2, 4, 1, 3, 5]], [[0, 1, 2, 3, 4, 5]]),
        (uninterleave(2), [[0, 2, 1, 3, 4, 6, 5, 7]], [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (uninterleave(1), [[[0, 9], [2, 9], [1, 9], [3, 9]]], [[[0, 9], [1, 9], [2, 9], [3, 9]]]),
    ],
)
def test_step_goes_this_way_round(step, native, foreign):
    assert [t.tolist() for t in step.to_foreign([torch.tensor(t) for t in native])] == foreign
    assert [t.tolist() for t in step.to_native([torch.tensor(t) for t in foreign])] == native


def test_uninterleave_turns_one_rotary_convention_into_the_other():
    heads, dim = 2, 6
    angle = torch.rand(dim // 2, dtype=torch.float64)
    weight, x = torch.rand(heads * dim, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    (native,) = uninterleave(heads).to_native([weight])

    pairs = torch.view_as_complex((weight @ x).reshape(heads, -1, 2).contiguous())
    turned_pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    first, second = (native @ x).reshape(heads, 2, -1).unbind(1)
    torch.testing.assert_close(turned_pairs.real, first * angle.cos() - second * angle.sin())
    torch.testing.assert_close(turned_pairs.imag, first * angle.sin() + second * angle.cos())


# --- tables -----------------------------------------------------------------------------------------------------


@st.composite
def tables(draw):
    """A table of rules with steps, and a native state dict that it covers."""
    rules, state = [], {}
    for i, case in enumerate(draw(st.lists(cases, min_size=1, max_size=5))):
        runs = draw(st.lists(st.text("ab.0", max_size=3), min_size=1, max_size=3, unique=True) | st.none())
        star = "" if runs is None else "*"
        native = tuple(f"n{i}.{part}:{star}.w" for part in range(len(case.native)))
        foreign = tuple(f"f{i}.{part}:{star}.w" for part in range(case.foreign))
        one = draw(st.booleans())
        rules.append(Rule(*(side[0] if one and len(side) == 1 else side for side in (native, foreign)), case.step))
        for run in runs or [""]:
            state |= {key.replace("*", run): t for key, t in zip(native, numbered(case.native), strict=True)}
    keys = draw(st.permutations(list(state)))
    return rules, {key: state[key] for key in keys}


@given(tables())
def test_table_comes_back(table):
    rules, native = table
    foreign, left = convert(native, rules, to="foreign")
    assert left == []
    assert all(key.startswith("f") for key in foreign)
    back, left = convert(foreign, rules, to="native")
    assert left == []
    assert_same(back, native)


@on_meta
@given(tables())
def test_table_maps_meta_tensors_to_the_same_keys_and_shapes(table):
    rules, native = table
    real, _ = convert(native, rules, to="foreign")
    meta, left = convert({key: t.to("meta") for key, t in native.items()}, rules, to="foreign")
    assert left == []
    assert {key: t.shape for key, t in meta.items()} == {key: t.shape for key, t in real.items()}


@given(tables(), st.data())
def test_what_is_taken_away_leaves_its_companions_over_and_nothing_else(table, data):
    rules, native = table
    foreign, _ = convert(native, rules, to="foreign")
    victim = data.draw(st.sampled_from(sorted(foreign)))
    back, left = convert({key: t for key, t in foreign.items() if key != victim}, rules, to="native")
    group = {key for key in foreign if key[:2] == victim[:2] and key.partition(":")[2] == victim.partition(":")[2]}
    assert set(left) == group - {victim}
    lost = convert({key: foreign[key] for key in group}, rules, to="native")[0]
    assert_same(back, {key: t for key, t in native.items() if key not in lost})


ONE = torch.tensor([1.0])
TWO = torch.tensor([2.0])


def keys(rules, *names, to="native"):
    mapped, left = convert(dict.fromkeys(names, ONE), rules, to)
    return sorted(mapped), left


def test_first_match_wins_on_both_sides():
    rules = [Rule("x.head", "a.last"), Rule("x.*", "a.*"), Rule("y.*", "a.b.*"), Rule("x.b.*", "c.*")]
    assert keys(rules, "a.last", "a.b.c", "a.0") == (["x.0", "x.b.c", "x.head"], [])
    assert keys(rules, "x.head", "x.b.c", "y.0", to="foreign") == (["a.b.0", "a.b.c", "a.last"], [])


@pytest.mark.parametrize(
    ("pattern", "key", "run"),
    [
        ("pos*", "pos", ""),
        ("*", "", ""),
        ("*", "a.b", "a.b"),
        ("a.*.w", "a..w", ""),
        ("a.*.w", "a.b.c.w", "b.c"),
        ("a*a", "aa", ""),
        ("a*a", "a", None),  # head and tail must not share a character
        ("ab*ba", "aba", None),
        ("a.*.w", "b.a.0.w", None),
        ("a.*", "A.0", None),
        ("a", "a", ""),
        ("a", "ab", None),
        ("a.b", "axb", None),  # a dot is a dot
        ("[a]", "a", None),
    ],
)
def test_star_is_any_run_of_characters_even_none(pattern, key, run):
    star = "*" if "*" in pattern else ""
    mapped, left = convert({key: ONE}, [Rule(f"<{star}>", pattern)], to="native")
    assert (list(mapped), left) == (([], [key]) if run is None else ([f"<{run}>"], []))


def test_nothing_is_left_over_in_silence():
    rules = [Rule("qkv.*", ("q.*", "k.*", "v.*"), split(0, 3))]
    foreign = {"k.w": ONE, "q.w": ONE, "other": ONE, "q.b": ONE}
    assert convert(foreign, rules, to="native") == ({}, ["other", "k.w", "q.w", "q.b"])
    assert convert(foreign | {"v.w": TWO.half()}, rules, to="native")[0] == {}  # one of them would change its dtype
    mapped, left = convert(foreign | {"v.w": TWO}, rules, to="native")
    assert (list(mapped), left) == (["qkv.w"], ["other", "q.b"])
    assert mapped["qkv.w"].tolist() == [1, 1, 2]
    assert convert({}, rules, to="native") == ({}, [])
    assert convert({"a": ONE}, [], to="foreign") == ({}, ["a"])


@pytest.mark.parametrize("first", ["a.w", "b.w"])
def test_two_keys_for_one_place_do_not_overwrite_each_other(first):
    rules = [Rule("x.*", "a.*"), Rule("x.*", "b.*")]
    second = "a.w" if first == "b.w" else "b.w"
    mapped, left = convert({first: ONE, second: TWO}, rules, to="native")
    assert mapped == {"x.w": ONE}
    assert left == [second]


@pytest.mark.parametrize(
    ("step", "native", "foreign", "state"),
    [
        (transpose(0, 1), "x", "y", {"y": ONE}),
        (reshape((2,), (1, 2)), "x", "y", {"y": torch.zeros(3)}),
        (reshape((2, -1), (-1,)), "x", "y", {"y": torch.zeros(3)}),
        (stack(0, 2), ("x", "z"), "y", {"y": torch.zeros(3, 2)}),
        (stack(1, 2), ("x", "z"), "y", {"y": ONE}),
        (uninterleave(2), "x", "y", {"y": torch.zeros(6)}),
        (uninterleave(2), "x", "y", {"y": torch.tensor(1.0)}),
        (split(0, 2), "x", ("y", "z"), {"y": torch.zeros(2, 2), "z": torch.zeros(2, 3)}),
        (split(0, 2), "x", ("y", "z"), {"y": torch.tensor(1.0), "z": torch.tensor(1.0)}),
        (stack(0, 2).inverted("unstack"), "x", ("y", "z"), {"y": ONE, "z": torch.zeros(2)}),
    ],
)
def test_shapes_that_a_step_cannot_work_on_are_left_over(step, native, foreign, state):
    assert convert(state, [Rule(native, foreign, step)], to="native") == ({}, list(state))


def test_split_into_fewer_parts_than_named_is_left_over():
    rules = [Rule("qkv", ("q", "k", "v"), split(0, 3))]
    assert convert({"qkv": torch.zeros(2)}, rules, to="foreign") == ({}, ["qkv"])


@pytest.mark.parametrize(("native", "foreign"), [("a.*", "b"), ("a", "b.*"), ("a.*.*", "b.*.*"), ("a.*", ("b.*", "c"))])
def test_a_rule_that_would_lose_the_run_is_refused(native, foreign):
    with pytest.raises(InputError, match="one '\\*' each, or none"):
        Rule(native, foreign)


def test_the_foreign_names_of_a_native_tensor():
    rules = [Rule("x.qkv.*", ("a.q.*", "a.k.*"), split(0, 2)), Rule(("y.u", "y.v"), "b"), Rule("x.*", "a.*")]
    names = {"x.qkv.w": ("a.q.w", "a.k.w"), "y.v": ("b",), "x.w": ("a.w",), "z": ()}
    assert {key: foreign_names(key, rules) for key in names} == names


def test_values_are_not_copied_where_only_the_name_changes():
    tensor = torch.zeros(3)
    mapped, _ = convert({"a.w": tensor}, [Rule("b.*", "a.*")], to="native")
    assert mapped["b.w"] is tensor
