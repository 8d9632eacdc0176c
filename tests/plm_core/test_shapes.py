"""The procedural world: its labels agree with its pixels, and its items depend only on their arguments."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core import shapes
from plm_core.shapes import draw, graph, questions

NAME = re.compile(rf"a ({'|'.join(shapes.SIZES)}) ({'|'.join(shapes.COLOURS)}) ({'|'.join(shapes.SHAPES)})\b")
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
VERBS = {
    "still": "stays still",
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "grow": "grows",
    "shrink": "shrinks",
    "spin": "spins",
    "blink": "blinks",
}
PINNED_CAPTIONS = [
    "a small red triangle, a small green cross and a large black square",
    "a large orange circle, a large orange square, a small blue square and a small orange heart",
    "a small cyan cross left of a large yellow circle",
]
PINNED_BOXES = [(28, 22, 54, 48), (5, 37, 26, 58), (33, 8, 44, 19), (14, 5, 27, 17)]
PINNED_CLIP = (
    "a small pink triangle blinks, a large red circle shrinks and a small white circle moves right",
    ((0, "still", 0, 1), (0, "blink", 1, 8), (1, "shrink", 0, 8), (2, "right", 0, 7), (2, "still", 7, 8)),
)


@pytest.fixture(scope="module")
def scenes():
    return list(shapes.Images(count=200, objects=(1, 6)))


@pytest.fixture(scope="module")
def clips():
    return list(shapes.Clips("heldout", count=120, background="plain"))


def tight_box(mask):
    rows, columns = np.nonzero(mask)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if rows.size else (0, 0, 0, 0)


def words(item):
    return [(thing.size, thing.colour, thing.shape) for thing in item.objects]


# --- Determinism ---


def test_items_are_pinned():
    scenes = shapes.Images("train", size=64, seed=7)
    clip = shapes.Clips("heldout", size=64, seed=7)[3]
    assert [scenes[index].caption for index in range(3)] == PINNED_CAPTIONS
    assert [thing.box for thing in scenes[1].objects] == PINNED_BOXES
    assert (clip.caption, clip.events) == PINNED_CLIP


def test_an_item_does_not_depend_on_what_was_read_before_it():
    forwards, backwards = shapes.Clips(count=5), shapes.Clips(count=9)
    for index in range(5):
        forwards[index]
    for index in reversed(range(5)):
        a, b = forwards[index], backwards[index]
        assert a.caption == b.caption
        assert a.events == b.events
        np.testing.assert_array_equal(a.frames, b.frames)


def test_the_background_does_not_change_the_objects():
    plain, clutter = shapes.Images(background="plain"), shapes.Images(background="clutter")
    assert plain[0].caption == clutter[0].caption
    assert [thing.box for thing in plain[0].objects] == [thing.box for thing in clutter[0].objects]
    assert not np.array_equal(plain[0].image, clutter[0].image)


class FirstDrawOfImages(shapes.Images):
    def _make(self, rng):
        return rng.random()


class FirstDrawOfClips(shapes.Clips):
    def _make(self, rng):
        return rng.random()


class FirstDrawOfGazes(shapes.Gazes):
    def _make(self, rng):
        return rng.random()


class FirstDrawOfGazeClips(shapes.GazeClips):
    def _make(self, rng):
        return rng.random()


class FirstDrawOfImageQuestions(questions.ImageQuestions):
    def _make(self, rng):
        return rng.random()


class FirstDrawOfClipQuestions(questions.ClipQuestions):
    def _make(self, rng):
        return rng.random()


FIRST_DRAWS = (
    FirstDrawOfImages,
    FirstDrawOfClips,
    FirstDrawOfGazes,
    FirstDrawOfGazeClips,
    FirstDrawOfImageQuestions,
    FirstDrawOfClipQuestions,
)


def test_splits_seeds_and_datasets_share_no_stream():
    """Compare the first random number of each stream; two equal ones among 720 would be no coincidence."""
    firsts = [
        draw
        for dataset in FIRST_DRAWS
        for split in shapes.SPLITS
        for seed in (0, 1, 2**32)
        for draw in dataset(split, count=20, seed=seed)
    ]
    assert len(firsts) == 720
    assert len(set(firsts)) == 720


def test_splits_show_different_scenes():
    images = [{scene.image.tobytes() for scene in shapes.Images(split, count=50)} for split in shapes.SPLITS]
    assert [len(split) for split in images] == [50, 50]
    assert not images[0] & images[1]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [("from plm_core.shapes import Images", "torch timm torchvision"), ("from plm_core.shapes import SHAPES", "numpy")],
)
def test_imports_stay_light(statement, heavy):
    check = f"import sys; {statement}; print(*set({heavy.split()}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- Sequences and arguments ---


def test_indexing_and_iteration():
    scenes = shapes.Images(count=3)
    assert len(scenes) == len(list(scenes)) == 3
    assert scenes[-1].caption == scenes[np.int64(2)].caption
    for index in (3, -4):
        with pytest.raises(IndexError, match=rf"from -3 to 2, not {index}"):
            scenes[index]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (shapes.Images, {"split": "test"}, "split must be one of 'train', 'heldout', not 'test'"),
        (shapes.Images, {"size": 31}, "size must be a whole number from 32 to 4096, not 31"),
        (shapes.Images, {"size": 64.0}, "size must be a whole number from 32 to 4096, not 64.0"),
        (shapes.Images, {"count": 0}, "count must be a whole number from 1 to 4294967296, not 0"),
        (shapes.Images, {"seed": -1}, "seed must be a whole number from 0 to 18446744073709551615, not -1"),
        (shapes.Images, {"seed": True}, "seed must be a whole number from 0 to 18446744073709551615, not True"),
        (
            shapes.Images,
            {"objects": (3, 2)},
            "objects must be (fewest, most) with 1 <= fewest <= most <= 6, not (3, 2)",
        ),
        (shapes.Images, {"objects": 3}, "objects must be (fewest, most) with 1 <= fewest <= most <= 6, not 3"),
        (
            shapes.Images,
            {"objects": (0, 2)},
            "objects must be (fewest, most) with 1 <= fewest <= most <= 6, not (0, 2)",
        ),
        (shapes.Clips, {"objects": (1, 5)}, "objects must be (fewest, most) with 1 <= fewest <= most <= 4, not (1, 5)"),
        (shapes.Images, {"background": None}, "background must be one of 'plain', 'gradient', 'clutter', not None"),
        (shapes.Clips, {"frames": 0}, "frames must be a whole number from 1 to 4096, not 0"),
        (shapes.Gazes, {"size": 63}, "size must be a whole number from 64 to 4096, not 63"),
        (
            shapes.Gazes,
            {"people": (1, 5)},
            "people must be (fewest, most) with 1 <= fewest <= most <= 4, not (1, 5)",
        ),
        (
            shapes.GazeClips,
            {"people": (0, 1)},
            "people must be (fewest, most) with 1 <= fewest <= most <= 4, not (0, 1)",
        ),
        (
            shapes.GazeClips,
            {"objects": (1, 5)},
            "objects must be (fewest, most) with 1 <= fewest <= most <= 4, not (1, 5)",
        ),
        (shapes.GazeClips, {"frames": 1}, "frames must be a whole number from 2 to 4096, not 1"),
        (shapes.Clips, {"split": "val"}, "split must be one of 'train', 'heldout', not 'val'"),
    ],
)
def test_bad_arguments(dataset, options, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        dataset(**options)


# --- Pictures ---


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(32, 96),
    seed=st.integers(0, 2**64 - 1),
    most=st.integers(1, 6),
    background=st.sampled_from(shapes.BACKGROUNDS),
)
def test_scene_labels_are_consistent(size, seed, most, background):
    scene = shapes.Images(size=size, seed=seed, objects=(1, most), background=background)[0]
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert 1 <= len(scene.objects) <= most
    assert len({(thing.shape, thing.colour) for thing in scene.objects}) == len(scene.objects)
    masks = np.stack([thing.mask for thing in scene.objects])
    assert masks.dtype == bool
    assert masks.shape[1:] == (size, size)
    assert masks.any((1, 2)).all()
    assert masks.sum(0).max() == 1
    assert [thing.box for thing in scene.objects] == [tight_box(mask) for mask in masks]
    assert NAME.findall(scene.caption) == words(scene)


def test_every_word_is_used(scenes):
    things = [thing for scene in scenes for thing in scene.objects]
    assert {thing.shape for thing in things} == set(shapes.SHAPES)
    assert {thing.colour for thing in things} == set(shapes.COLOURS)
    assert {thing.size for thing in things} == set(shapes.SIZES)
    assert {len(scene.objects) for scene in scenes} == set(range(1, 7))


def test_relations_hold():
    relations = set()
    for scene in shapes.Images(count=100, objects=(2, 2), background="plain"):
        relation = NAME.sub("", scene.caption).strip()
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (thing.box for thing in scene.objects)
        dx, dy = (ax0 + ax1 - bx0 - bx1) / 2, (ay0 + ay1 - by0 - by1) / 2
        assert {"left of": dx < 0, "right of": dx > 0, "above": dy < 0, "below": dy > 0}[relation], scene.caption
        relations.add(relation)
    assert len(relations) == 4


def test_captions_of_one_and_of_many(scenes):
    one = next(scene for scene in scenes if len(scene.objects) == 1)
    many = next(scene for scene in scenes if len(scene.objects) == 4)
    assert NAME.fullmatch(one.caption)
    assert NAME.sub("X", many.caption) == "X, X, X and X"


def test_colours_are_in_the_mask(scenes):
    for scene in scenes:
        for thing in scene.objects:
            median = np.median(scene.image[thing.mask], axis=0)
            nearest = min(shapes.COLOURS, key=lambda colour: math.dist(median, shapes.PALETTE[colour]))
            assert nearest == thing.colour


def test_objects_stand_out_from_what_is_behind_them(scenes):
    for scene in scenes:
        behind = scene.image[~np.any([thing.mask for thing in scene.objects], axis=0)]
        for thing in scene.objects:
            assert math.dist(np.median(scene.image[thing.mask], axis=0), np.median(behind, axis=0)) > 60


def test_sizes_mean_what_they_say(scenes):
    """Compare only the extremes, since a thin shape can have few pixels and a tilt can stretch a box."""
    extents = {word: [] for word in shapes.SIZES}
    for scene in scenes:
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            extents[thing.size].append(max(x1 - x0, y1 - y0))
    assert max(extents["small"]) < np.median(extents["large"])
    assert min(extents["large"]) > np.median(extents["small"])


def test_at_least_half_of_every_object_is_visible():
    partly = 0
    for seed in range(300):
        sprites = graph.sample_sprites(np.random.default_rng(seed), 48, (3, 6))
        together = draw.paint(np.zeros((48, 48, 3), np.float32), sprites)
        for sprite, visible in zip(sprites, together, strict=True):
            (alone,) = draw.paint(np.zeros((48, 48, 3), np.float32), [sprite])
            assert not (visible & ~alone).any()
            assert visible.sum() >= alone.sum() / 2
            partly += visible.sum() < alone.sum()
    assert partly > 50  # otherwise occlusion is hardly tested


# --- The renderer ---


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi),
        ("ring", math.pi * (1 - 0.52**2)),
        ("square", 2),
        ("triangle", 0.75 * math.sqrt(3)),
        ("cross", 8 * 0.95 * 0.3 - 4 * 0.3**2),
        ("star", 1.1226),
        ("heart", (4 + math.pi) * 0.56**2),
    ],
)
@pytest.mark.parametrize("angle", [0, 0.3])
def test_coverage_adds_up_to_the_area(shape, area, angle):
    sprite = graph.Sprite(shape, "red", "large", (255, 0, 0), x=32.2, y=31.7, radius=20, angle=angle)
    _, _, alpha = draw.coverage(sprite, 64, 64)
    assert alpha.sum() == pytest.approx(area * 20**2, rel=0.01)
    assert ((alpha > 0) & (alpha < 1)).any()  # anti-aliased


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_shapes_fit_their_disc_and_nearly_fill_it(shape):
    """Check that no outline leaves its disc, since scenes are laid out by discs."""
    sprite = graph.Sprite(shape, "red", "large", (255, 0, 0), x=32, y=32, radius=30, angle=0.1)
    (mask,) = draw.paint(np.zeros((64, 64, 3), np.float32), [sprite])
    farthest = np.hypot(*(np.argwhere(mask) + 0.5 - 32).T).max()
    assert 28 < farthest <= 30.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), density=st.floats(0, 0.1))
def test_boxes_are_tight(seed, density):
    masks = np.random.default_rng(seed).random((2, 3, 9, 7)) < density
    expected = [[tight_box(mask) for mask in row] for row in masks]
    np.testing.assert_array_equal(draw.boxes(masks), np.array(expected, np.float32))


# --- Clips ---


def test_objects_keep_inside_the_picture(scenes, clips):
    for clip in clips:
        for track in clip.objects:
            visible = track.boxes[track.masks.any((1, 2))]
            assert visible.min() > 0
            assert visible.max() < 64
    assert all(min(thing.box) > 0 and max(thing.box) < 64 for scene in scenes for thing in scene.objects)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(32, 72), frames=st.integers(1, 20), seed=st.integers(0, 2**64 - 1), most=st.integers(1, 4))
def test_clip_labels_are_consistent(size, frames, seed, most):
    clip = shapes.Clips(size=size, frames=frames, seed=seed, objects=(1, most))[0]
    assert clip.frames.shape == (frames, size, size, 3)
    assert clip.frames.dtype == np.uint8
    assert 1 <= len(clip.objects) <= most
    masks = np.stack([track.masks for track in clip.objects])
    assert masks.shape[1:] == (frames, size, size)
    assert masks.sum(0).max() == 1
    for track in clip.objects:
        assert track.boxes.dtype == np.float32
        assert track.boxes.tolist() == [list(tight_box(mask)) for mask in track.masks]
    assert_events_hold(clip)


def test_events_hold(clips):
    for clip in clips:
        assert_events_hold(clip)
    assert {event.motion for clip in clips for event in clip.events} == set(shapes.MOTIONS)


def assert_events_hold(clip):
    for index, track in enumerate(clip.objects):
        spans = [event for event in clip.events if event.object == index]
        assert [spans[0].start, *(event.start for event in spans[1:])] == [0, *(event.end for event in spans[:-1])]
        assert spans[-1].end == len(clip.frames)
        for _, motion, start, end in spans:
            assert start < end
            assert_motion(motion, track.boxes[start:end], track.masks[start:end])
        moving = [event.motion for event in spans if event.motion != "still"]
        assert len(moving) <= 1
        assert f"a {track.size} {track.colour} {track.shape} {VERBS[(*moving, 'still')[0]]}" in clip.caption


def assert_motion(motion, boxes, masks):
    area = masks.sum((1, 2)).astype(int)
    if motion in STEPS:
        steps = np.diff(boxes, axis=0)
        towards = steps * np.array(STEPS[motion] * 2)
        across = steps * (np.array(STEPS[motion] * 2) == 0)
        assert len(steps) > 0
        assert (towards.sum(1) >= 2).all()
        assert np.ptp(towards.sum(1)) == 0  # at a constant pace
        assert not across.any()
    elif motion == "still":
        assert (masks == masks[0]).all()
    elif motion in ("grow", "shrink"):
        growth = np.diff(area) if motion == "grow" else -np.diff(area)
        assert (growth >= 0).all()  # two steps in a row can round to the same pixels
        assert growth.sum() > 0
    elif motion == "spin":
        assert (masks != masks[0]).any()
        assert np.ptp(area) <= 0.5 * area.max()  # the smallest star has seventeen pixels
    else:
        assert motion == "blink"
        assert len(area) >= 3
        assert ((area > 0) == [True, False] * (len(area) // 2) + [True]).all()


def test_round_shapes_never_spin():
    clips = shapes.Clips(count=150, objects=(4, 4), frames=2, background="plain")
    spun = {clip.objects[event.object].shape for clip in clips for event in clip.events if event.motion == "spin"}
    assert spun == set(shapes.SHAPES) - {"circle", "ring"}


def test_growing_starts_small_and_shrinking_large(clips):
    sizes = {(event.motion, clip.objects[event.object].size) for clip in clips for event in clip.events}
    assert {size for motion, size in sizes if motion == "grow"} == {"small"}
    assert {size for motion, size in sizes if motion == "shrink"} == {"large"}


def test_a_single_frame_is_still_and_two_do_not_blink():
    single = {event.motion for clip in shapes.Clips(frames=1, count=30) for event in clip.events}
    double = {event.motion for clip in shapes.Clips(frames=2, count=100) for event in clip.events}
    assert single == {"still"}
    assert double == set(shapes.MOTIONS) - {"blink"}


def test_clip_captions_join_their_clauses(clips):
    def joined(count):
        caption = next(clip.caption for clip in clips if len(clip.objects) == count)
        return re.sub("|".join(VERBS.values()), "V", NAME.sub("X", caption))

    assert [joined(count) for count in (1, 2, 3)] == ["X V", "X V while X V", "X V, X V and X V"]


def test_the_background_of_a_clip_holds_still(clips):
    for clip in clips[:20]:
        empty = ~np.any([track.masks.any(0) for track in clip.objects], axis=0)
        assert np.ptp(clip.frames[:, *np.argwhere(empty)[0]].astype(int), axis=0).max() == 0
