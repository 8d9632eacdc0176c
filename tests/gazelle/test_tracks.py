import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelle.people import Tracker
from plm_core.errors import InputError

LEFT, RIGHT = [0.1, 0.1, 0.3, 0.4], [0.6, 0.1, 0.8, 0.4]


def moved(box, x):
    return [box[0] + x, box[1], box[2] + x, box[3]]


def test_people_keep_their_numbers_in_any_order():
    tracker = Tracker()
    first = tracker.update([LEFT, RIGHT], [0.5, 0.9])
    assert first.dtype == np.int64
    assert first.tolist() == [1, 0], "the best score is first"
    for step in range(1, 6):
        boxes = [moved(RIGHT, -0.03 * step), moved(LEFT, 0.03 * step)]
        assert tracker.update(boxes, [0.9, 0.9]).tolist() == [0, 1]


def test_a_person_is_assigned_such_that_all_overlaps_are_largest():
    """The best pair by itself would leave the other two without a partner."""
    tracker = Tracker(min_overlap=0.1)
    tracker.update([[0, 0, 10, 10], [6, 0, 16, 10]])
    assert tracker.update([[4, 0, 14, 10], [9, 0, 19, 10]]).tolist() == [0, 1]


def test_a_person_who_is_missed_for_a_few_frames_keeps_the_number():
    tracker = Tracker(max_missed=2)
    assert tracker.update([LEFT, RIGHT]).tolist() == [0, 1]
    assert tracker.update([RIGHT]).tolist() == [1]
    assert tracker.update([]).tolist() == []
    assert tracker.update([LEFT, RIGHT]).tolist() == [0, 1]


def test_a_number_is_not_used_again():
    tracker = Tracker(max_missed=1)
    tracker.update([LEFT])
    assert tracker.update([]).shape == (0,)
    tracker.update([])
    assert tracker.update([LEFT]).tolist() == [1]
    nothing_missed = Tracker(max_missed=0)
    nothing_missed.update([LEFT])
    nothing_missed.update(np.zeros((0, 4)), [])
    assert nothing_missed.update([LEFT]).tolist() == [1]


def test_the_missed_frames_are_those_in_a_row():
    tracker = Tracker(max_missed=1)
    for _ in range(5):
        assert tracker.update([LEFT]).tolist() == [0]
        assert tracker.update([]).tolist() == []


def test_a_small_overlap_is_somebody_else():
    tracker = Tracker(min_overlap=0.5)
    tracker.update([[0, 0, 10, 10]])
    assert tracker.update([[3, 0, 13, 10]]).tolist() == [0]  # 70 of 130
    assert tracker.update([[7, 0, 17, 10]]).tolist() == [1]  # 60 of 140


def test_boxes_are_smoothed_and_the_unsmoothed_ones_are_followed():
    tracker = Tracker(smoothing=0.75, min_overlap=0.5)
    tracker.update([[0, 0, 10, 10], [50, 50, 60, 60]])
    assert tracker.boxes.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    tracker.update([[50, 50, 60, 60], [2, 0, 12, 10]])
    assert tracker.boxes.tolist() == [[50, 50, 60, 60], [0.5, 0, 10.5, 10]]
    assert tracker.update([[5, 0, 15, 10]]).tolist() == [0], "54% of the last box, 38% of the smoothed one"
    assert tracker.boxes.tolist() == [[1.625, 0, 11.625, 10]]
    tracker.update([])
    assert tracker.boxes.shape == (0, 4)


def test_without_smoothing_the_boxes_are_those_of_the_frame():
    tracker = Tracker()
    tracker.update([LEFT])
    tracker.update([moved(LEFT, 0.05), RIGHT])
    assert np.array_equal(tracker.boxes, [moved(LEFT, 0.05), RIGHT])


def test_the_arrays_of_a_frame_may_be_changed_afterwards():
    tracker, boxes = Tracker(), np.array([LEFT, RIGHT])
    tracker.update(boxes, np.ones(2))
    boxes += 50
    assert tracker.update([LEFT, RIGHT]).tolist() == [0, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_missed": -1},
        {"max_missed": 1.5},
        {"min_overlap": 0},
        {"min_overlap": 1.1},
        {"min_overlap": float("nan")},
        {"smoothing": 1},
        {"smoothing": -0.1},
    ],
)
def test_arguments_have_ranges(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))} .* is not allowed"):
        Tracker(**arguments)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (([LEFT[:3]], None), r"boxes of shape \[1, 3\]"),
        ((LEFT, None), r"boxes of shape \[4\]"),
        (([[0, 0, float("nan"), 1]], None), "finite numbers"),
        (([LEFT], [1, 2]), r"scores of shape \[2\]: finite numbers of shape \[1\]"),
        (([LEFT], [float("nan")]), r"scores of shape \[1\]: finite"),
    ],
)
def test_a_frame_that_is_none_changes_nothing(frame, message):
    tracker = Tracker(max_missed=0)
    tracker.update([LEFT])
    with pytest.raises(InputError, match=message):
        tracker.update(*frame)
    assert tracker.update([LEFT]).tolist() == [0]


corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(0, 6), st.integers(0, 6)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
frame = st.lists(st.tuples(box, st.sampled_from([0.5, 0.9, 1.0])), max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(frame, max_size=12), st.integers(0, 3), st.sampled_from([0.1, 0.3, 1.0]), st.sampled_from([0, 0.5]))
def test_numbers_are_unique_in_a_frame_never_used_again_and_the_same_each_time(frames, missed, overlap, smoothing):
    trackers = [Tracker(missed, overlap, smoothing) for _ in range(2)]
    seen = {}  # the last frame of each number
    for time, found in enumerate(frames):
        boxes, scores = [b for b, _ in found], [s for _, s in found]
        ids, again = (tracker.update(boxes, scores).tolist() for tracker in trackers)
        assert ids == again
        assert len(set(ids)) == len(ids) == len(boxes)
        for number in ids:
            assert number not in seen or time - seen[number] <= missed + 1
        new = [number for number in ids if number not in seen]
        assert sorted(new) == list(range(len(seen), len(seen) + len(new))), "numbers are counted up"
        seen |= dict.fromkeys(ids, time)
        assert trackers[0].boxes.shape == (len(boxes), 4)
