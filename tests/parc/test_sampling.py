"""The probe sampler, against a recording of the original and its rules."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parc
from plm_core.errors import InputError


def test_golden_is_exact(golden):
    case = golden("probe_sampler")
    labels, budget = case.inputs["y"], case.config["probe_size"]
    for run in case.config["runs"]:
        ours = parc.sample_probe(labels, budget=budget, run=run)
        assert ours.dtype == np.int64
        np.testing.assert_array_equal(ours, case.outputs[f"indices_run{run}"])
        np.testing.assert_array_equal(parc.sample_probe(labels, budget, run, case.config["num_classes"]), ours)


def published(labels, budget, run, num_classes):
    """Run the published recipe, step by step, on the seeded global generator."""
    random.seed(2020 + 3037 * run)
    lists = {}
    for index, label in enumerate(labels):
        lists.setdefault(label, []).append(index)
    for of_class in lists.values():
        random.shuffle(of_class)
    classes = [c for c in range(num_classes) if c in lists]
    if num_classes * 2 > budget:
        random.shuffle(classes)
        classes = classes[: budget // 2]
    taken, grew = [], True
    while grew and len(taken) < budget:
        grew = False
        for c in classes:
            if lists[c] and len(taken) < budget:
                taken.append(lists[c].pop())
                grew = True
    return taken


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=80),
    st.integers(2, 60),
    st.integers(0, 4),
    st.sampled_from([12, 20]),
)
def test_equals_the_recipe_on_the_global_generator(labels, budget, run, num_classes):
    before = random.getstate()
    try:
        expected = published(labels, budget, run, num_classes)
    finally:
        random.setstate(before)
    assert parc.sample_probe(labels, budget, run, num_classes).tolist() == expected


def test_no_global_generator_is_touched():
    labels = np.arange(900) % 300
    state, numpys = random.getstate(), np.random.get_state()[1].copy()
    first = parc.sample_probe(labels)
    random.seed(5)
    np.testing.assert_array_equal(parc.sample_probe(labels), first)
    random.setstate(state)
    parc.sample_probe(labels)
    assert random.getstate() == state
    assert (np.random.get_state()[1] == numpys).all()


def test_probe_is_balanced_and_so_is_its_half():
    labels = np.repeat(np.arange(10), 100)
    probe = parc.sample_probe(labels, budget=200)
    assert len(set(probe.tolist())) == 200
    assert set(Counter(labels[probe].tolist()).values()) == {20}
    assert set(Counter(labels[probe[:100]].tolist()).values()) == {10}


def test_too_many_classes_are_drawn_two_images_each():
    labels = np.arange(3000) % 300
    drawn = Counter(labels[parc.sample_probe(labels)].tolist())
    assert len(drawn) == 250
    assert set(drawn.values()) == {2}
    # the nominal count decides: 260 classes need 520 images, above the budget, although only 240 classes occur
    some = np.arange(2400) % 240
    assert len(set(some[parc.sample_probe(some)].tolist())) == 240
    assert not np.array_equal(parc.sample_probe(some, num_classes=260), parc.sample_probe(some))
    np.testing.assert_array_equal(parc.sample_probe(some, num_classes=1), parc.sample_probe(some, num_classes=2))


def test_small_datasets_are_taken_whole_and_runs_differ():
    labels = [3, 3, 3, 3, 9]
    assert sorted(parc.sample_probe(labels).tolist()) == [0, 1, 2, 3, 4]
    many = np.arange(2000) % 7
    assert not np.array_equal(parc.sample_probe(many, run=0), parc.sample_probe(many, run=1))


def test_class_names_are_any_integers():
    labels = np.arange(400) % 5
    names = np.array([-7, 2, 40, 10**12, 2**60])  # ascending, so that the order of the classes is the same
    np.testing.assert_array_equal(parc.sample_probe(names[labels], 60), parc.sample_probe(labels, 60))
    np.testing.assert_array_equal(parc.sample_probe(labels > 2, 60), parc.sample_probe((labels > 2).astype(int), 60))


def test_multilabel_and_regression_are_a_plain_sample():
    multi_hot = np.zeros((700, 21))
    generator = random.Random(2020 + 3037 * 2)
    order = list(range(700))
    generator.shuffle(order)
    assert parc.sample_probe(multi_hot, run=2).tolist() == order[:500]
    assert parc.sample_probe(np.linspace(0, 1, 700), run=2).tolist() == order[:500]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([],), r"labels has shape \(0,\)"),
        ((np.zeros((2, 2, 2)),), r"shape \(2, 2, 2\)"),
        ((["cat", "dog"],), "labels has type"),
        (([0.5, np.nan],), "1 NaN"),
        (([0, 1], 1), "budget is 1"),
        (([0, 1], 10, -1), "run is -1"),
        (([0, 1], 10, 0, 0), "num_classes is 0"),
    ],
)
def test_bad_input_is_one_line(arguments, says):
    with pytest.raises(InputError, match=says):
        parc.sample_probe(*arguments)
