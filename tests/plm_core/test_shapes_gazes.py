"""The scenes of figures that look at things: each label tells what a ray through the masks meets first."""

import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core import shapes
from plm_core.shapes import draw, gazing, graph

MARGIN = math.radians(8)  # what the help of the datasets states
PINNED_GAZES = [
    "a person in teal looks at the large green circle; a person in olive looks at the person in teal",
    "a person in olive looks at the large cyan triangle; a person in teal looks at the person in olive",
]
PINNED_HEADS = [(34.0, 42.0, 45.0, 53.0), (18.0, 18.0, 30.0, 30.0)]
PINNED_POINTS = [(51.146, 25.844), (39.658, 47.322)]
PINNED_CLIP = "a person in maroon looks out of the picture, then at the small purple square, then out of the picture"
PINNED_ANGLES = [
    3.157, 3.157, 3.157, 3.157, 3.157, 3.029, 2.647, 2.321, 2.277, 2.277, 2.277, 2.378, 3.35, 4.551, 5.007, 5.007,
]  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return list(shapes.Gazes(count=150, people=(1, 4), objects=(1, 5)))


@pytest.fixture(scope="module")
def parties():
    return [gazing.sample_party(np.random.default_rng(seed), 64, (1, 5), (1, 4)) for seed in range(100)]


@pytest.fixture(scope="module")
def clips():
    return list(shapes.GazeClips("heldout", count=25, background="plain", people=(1, 4)))


def tight_box(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def things_of(objects, people):
    return [thing.mask for thing in (*objects, *people)]


def target_of(person, objects):
    """The index of what a person looks at among the objects and then the people, or None."""
    return person.object if person.person is None else len(objects) + person.person


def walk(start, angle, size):
    """The points of a ray on its way out of the picture, in steps of a quarter of a pixel."""
    steps = np.arange(0, 1.5 * size, 0.25)
    points = np.array(start) + steps[:, None] * (math.cos(angle), math.sin(angle))
    return points[((points >= 0) & (points < size)).all(1)]


def first_mask(masks, viewer, start, angle):
    """The index of the first mask that a ray enters, other than that of the viewer, or None."""
    columns, rows = walk(start, angle, masks[0].shape[0]).astype(int).T
    for column, row in zip(columns, rows, strict=True):
        for index, mask in enumerate(masks):
            if index != viewer and mask[row, column]:
                return index
    return None


def first_disc(things, viewer, angle, reach=0.0):
    """The index of the first disc, grown by a few pixels, that a ray enters, or None."""
    eye = things[viewer]
    others = [index for index in range(len(things)) if index != viewer]
    centres = np.array([(things[index].x, things[index].y) for index in others]).reshape(-1, 2)
    radii = np.array([things[index].radius + reach for index in others])
    inside = np.hypot(*(walk((eye.x, eye.y), angle, 64)[:, None] - centres).transpose(2, 0, 1)) <= radii
    step, place = np.nonzero(inside)
    return others[place[0]] if step.size else None


def goes_through_its_point(person):
    if person.point is None:
        return True
    (x, y), (x0, y0) = person.point, person.centre
    return abs(math.remainder(math.atan2(y - y0, x - x0) - person.angle, math.tau)) < 1e-9


def assert_labels_hold(objects, people):
    masks = things_of(objects, people)
    size = masks[0].shape[0]
    assert np.sum(masks, axis=0).max() == 1  # nothing covers a head, and a head covers no object
    assert len({person.clothes for person in people}) == len(people)
    for index, person in enumerate(people):
        assert person.head == tight_box(person.mask)
        assert min(person.head) >= 0
        assert max(person.head) <= size
        assert 0 <= person.angle < math.tau
        target = target_of(person, objects)
        assert person.inside == (target is not None) == (person.point is not None)
        assert person.object is None or person.person is None
        if person.inside:
            x, y = person.point
            assert masks[target][int(y), int(x)]
        if person.steady and goes_through_its_point(person):  # on its way a turning head may look past an outline
            assert first_mask(masks, len(objects) + index, person.centre, person.angle) == target


# --- Determinism ---


def test_items_are_pinned():
    scenes = shapes.Gazes("train", size=64, seed=7)
    clip = shapes.GazeClips("heldout", size=64, seed=7, people=(1, 1))[3]
    assert [scenes[index].caption.partition("; ")[2] for index in range(2)] == PINNED_GAZES
    assert [person.head for person in scenes[1].people] == PINNED_HEADS
    np.testing.assert_allclose([person.point for person in scenes[1].people], PINNED_POINTS, atol=1e-3)
    assert clip.caption.partition("; ")[2] == PINNED_CLIP
    np.testing.assert_allclose([person.angle for (person,) in clip.people], PINNED_ANGLES, atol=1e-3)


def test_an_item_does_not_depend_on_what_was_read_before_it():
    forwards, backwards = shapes.GazeClips(count=3, frames=4), shapes.GazeClips(count=9, frames=4)
    for index in range(3):
        forwards[index]
    for index in reversed(range(3)):
        np.testing.assert_array_equal(forwards[index].frames, backwards[index].frames)


def test_the_background_does_not_change_the_figures():
    plain, clutter = (shapes.Gazes(background=background)[1] for background in ("plain", "clutter"))
    assert plain.caption == clutter.caption
    assert [person.angle for person in plain.people] == [person.angle for person in clutter.people]
    assert not np.array_equal(plain.image, clutter.image)


# --- Pictures ---


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(64, 128),
    seed=st.integers(0, 2**64 - 1),
    people=st.integers(1, 4),
    objects=st.integers(1, 6),
    background=st.sampled_from(shapes.BACKGROUNDS),
)
def test_scene_labels_are_consistent(size, seed, people, objects, background):
    world = shapes.Gazes(size=size, seed=seed, people=(1, people), objects=(1, objects), background=background)
    scene = world[0]
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert 1 <= len(scene.people) <= people
    assert 1 <= len(scene.objects) <= objects
    assert [thing.box for thing in scene.objects] == [tight_box(thing.mask) for thing in scene.objects]
    assert_labels_hold(scene.objects, scene.people)


def test_the_gaze_meets_its_target_first(scenes):
    for scene in scenes:
        assert_labels_hold(scene.objects, scene.people)
        assert all(person.steady and goes_through_its_point(person) for person in scene.people)


def test_a_gaze_out_of_the_picture_meets_nothing_within_the_margin(scenes):
    for scene in scenes:
        masks = things_of(scene.objects, scene.people)
        for index, person in enumerate(scene.people):
            if not person.inside:
                for offset in np.linspace(-MARGIN, MARGIN, 9):
                    viewer = len(scene.objects) + index
                    assert first_mask(masks, viewer, person.centre, person.angle + offset) is None


def test_a_head_turned_by_the_margin_looks_at_the_same_thing(parties):
    """Walk along rays on both sides, with a grain of tolerance for the steps of a quarter of a pixel."""
    for party in parties:
        for index, gaze in enumerate(party.gazes()):
            assert gaze.steady
            viewer, angle = len(party.objects) + index, party.figures[index].angle
            for offset in np.linspace(-MARGIN, MARGIN, 9):
                assert first_disc(party.things, viewer, angle + 0.99 * offset) == gaze.target


def test_a_gaze_that_a_smaller_turn_would_change_is_not_steady():
    """Turn each head until what it meets changes, which must be farther than the margin; just before, doubt begins."""
    party = gazing.sample_party(np.random.default_rng(0), 64, (4, 4), (2, 2))
    viewer = len(party.objects)
    angles = np.linspace(-math.pi, math.pi, 721)
    seen = [gazing.gaze(party.things, viewer, angle) for angle in angles]
    assert [gaze.target for gaze in seen] == [first_disc(party.things, viewer, angle) for angle in angles]
    edges = [angle for angle, (a, b) in zip(angles, pairwise(seen), strict=False) if a.target != b.target]
    assert len(edges) >= 4
    for angle, gaze in zip(angles, seen, strict=True):
        if any(abs(math.remainder(angle - edge, math.tau)) < MARGIN - math.radians(1) for edge in edges):
            assert not gaze.steady


def test_no_head_aims_at_a_hidden_point():
    """Put a disc over the thick side of a crescent, behind its centre, where the rays still meet the crescent first."""
    head = gazing.Figure(12, 32, 6, gazing.FACES[0], "navy").head
    crescent = graph.Sprite("crescent", "red", "large", (255, 0, 0), x=35, y=32, radius=9, angle=math.pi)
    cover = graph.Sprite("circle", "blue", "small", (0, 0, 255), x=42, y=32, radius=5, angle=0)
    assert gazing.aim([crescent, head], 1, 0) == pytest.approx(0)
    assert gazing.aim([crescent, cover, head], 2, 0) is None
    assert gazing.aim([crescent, replace(cover, x=52), head], 2, 0) == pytest.approx(0)


def test_all_kinds_of_gazes_occur(scenes):
    people = [person for scene in scenes for person in scene.people]
    assert 0.2 < np.mean([not person.inside for person in people]) < 0.4
    assert np.mean([person.person is not None for person in people]) > 0.1
    assert {person.clothes for person in people} == set(shapes.CLOTHES)
    assert {len(scene.people) for scene in scenes} == {1, 2, 3, 4}
    looked_at = [[person.object for person in scene.people if person.object is not None] for scene in scenes]
    assert sum(len(set(targets)) < len(targets) for targets in looked_at) > 10  # two look at the same object
    assert {scene.objects[target].shape for scene, row in zip(scenes, looked_at, strict=True) for target in row} == set(
        shapes.SHAPES
    )
    directions = np.histogram([person.angle for person in people], 8, (0, math.tau))[0]
    assert directions.min() > len(people) / 24  # a uniform share would be an eighth


def test_a_target_may_be_the_farther_or_the_smaller_thing(scenes):
    """Check that the nearest object is no answer: a model has to see the head."""
    nearest = [
        min(
            range(len(scene.objects)),
            key=lambda index: math.dist(person.centre, np.argwhere(scene.objects[index].mask).mean(0)[::-1]),
        )
        == person.object
        for scene in scenes
        if len(scene.objects) >= 3
        for person in scene.people
        if person.object is not None
    ]
    assert 0.2 < np.mean(nearest) < 0.7


def test_captions_say_who_looks_at_what(scenes):
    for scene in scenes:
        objects, _, gazes = scene.caption.partition("; ")
        assert all(f"a {thing.size} {thing.colour} {thing.shape}" in objects for thing in scene.objects)
        clauses = [
            f"a person in {person.clothes} looks {target_words(scene.objects, scene.people, person)}"
            for person in scene.people
        ]
        assert gazes.split("; ") == clauses


def target_words(objects, people, person):
    if not person.inside:
        return "out of the picture"
    if person.person is not None:
        return f"at the person in {people[person.person].clothes}"
    thing = objects[person.object]
    return f"at the {thing.size} {thing.colour} {thing.shape}"


# --- Figures ---


def test_heads_are_wide_enough_to_see(scenes):
    for person in (person for scene in scenes for person in scene.people):
        x0, y0, x1, y1 = person.head
        assert min(x1 - x0, y1 - y0) >= 10
        assert abs((x1 - x0) - (y1 - y0)) <= 1
        rows, columns = np.nonzero(person.mask)
        assert np.hypot(columns + 0.5 - person.centre[0], rows + 0.5 - person.centre[1]).max() <= (x1 - x0) / 2 + 1


@pytest.mark.parametrize("angle", np.linspace(-3, 3, 13))
def test_a_head_shows_its_direction_and_its_box_does_not(angle):
    def masks_at(angle):
        figure = gazing.Figure(31.7, 32.4, 5.5, gazing.FACES[0], "navy", angle)
        nose, *rest = draw.paint(np.zeros((64, 64, 3), np.float32), figure.parts)
        return nose, rest[1], np.any(rest, axis=0)

    def direction(mask):
        y, x = np.argwhere(mask).mean(0) + 0.5
        return math.atan2(y - 32.4, x - 31.7)

    nose, hair, head = masks_at(angle)
    assert abs(math.remainder(direction(nose) - angle, math.tau)) < math.radians(8)
    assert abs(math.remainder(direction(hair) - angle - math.pi, math.tau)) < math.radians(8)
    np.testing.assert_array_equal(head, masks_at(0)[2])


@pytest.mark.parametrize("angle", np.linspace(-3, 3, 13))
def test_a_turn_of_a_few_degrees_changes_the_pixels(angle):
    def picture(angle):
        canvas = np.full((64, 64, 3), 128, np.float32)
        draw.paint(canvas, gazing.Figure(31.7, 32.4, 5.5, gazing.FACES[0], "navy", angle).parts)
        return canvas

    difference = np.abs(picture(angle) - picture(angle + math.radians(6))).max(-1)
    assert (difference > 16).sum() >= 8


def test_objects_hide_bodies_and_each_other(parties):
    hidden = {"body": 0, "object": 0}
    for party in parties:
        sprites = [*(figure.body for figure in party.figures), *party.objects]
        together = draw.paint(np.zeros((64, 64, 3), np.float32), sprites)
        for sprite, visible in zip(sprites, together, strict=True):
            (alone,) = draw.paint(np.zeros((64, 64, 3), np.float32), [sprite])
            kind = "body" if sprite.shape == "body" else "object"
            assert visible.sum() >= alone.sum() * (0.5 if kind == "object" else 0.3)
            hidden[kind] += visible.sum() < alone.sum()
    assert min(hidden.values()) > 10


def test_figures_stand_out_from_what_is_behind_them(scenes):
    for scene in scenes:
        masks = things_of(scene.objects, scene.people)
        behind = np.median(scene.image[~np.any(masks, axis=0)], axis=0)
        for person in scene.people:
            assert np.median(np.linalg.norm(scene.image[person.mask] - behind, axis=1)) > 40


# --- Clips ---


def test_clip_labels_are_consistent(clips):
    for clip in clips:
        assert clip.frames.shape == (16, 64, 64, 3)
        assert clip.frames.dtype == np.uint8
        assert len(clip.people) == 16
        for people in clip.people:
            assert_labels_hold(clip.objects, people)


def test_a_turning_head_looks_at_the_first_disc_on_its_way():
    turning = 0
    for seed in range(15):
        for party in gazing.sample_moving_party(np.random.default_rng(seed), 64, 16, (2, 4), (1, 3)):
            for index, gaze in enumerate(party.gazes()):
                viewer, angle = len(party.objects) + index, party.figures[index].angle
                found = {first_disc(party.things, viewer, angle, reach) for reach in (-0.1, 0.1)}
                assert gaze.target in found
                turning += not gaze.steady
    assert turning > 30


def test_objects_of_clips_are_apart():
    for seed in range(15):
        first, *_ = gazing.sample_moving_party(np.random.default_rng(seed), 64, 2, (4, 4), (1, 1))
        for a, b in combinations(first.objects, 2):
            assert math.dist((a.x, a.y), (b.x, b.y)) > a.radius + b.radius


def test_heads_turn_smoothly_and_look_at_several_things(clips):
    changing = []
    for clip in clips:
        for figure in range(len(clip.people[0])):
            persons = [people[figure] for people in clip.people]
            steps = [abs(math.remainder(b.angle - a.angle, math.tau)) for a, b in pairwise(persons)]
            assert max(steps) < 1.55 * math.pi / (16 / 5)  # half a turn at most, in one span of five, starting softly
            assert sum(step == 0 for step in steps) >= 4  # it rests
            assert sum(person.steady for person in persons) >= 8
            assert persons[0].steady
            assert persons[-1].steady
            assert len({person.head for person in persons}) == 1
            changing.append(len({target_of(person, clip.objects) for person in persons}) > 1)
    assert np.mean(changing) > 0.9  # some have one choice only


def test_all_but_the_heads_holds_still(clips):
    for clip in clips:
        still = ~np.any([person.mask for person in clip.people[0]], axis=0)
        for person in clip.people[0]:
            rows, columns = np.indices(still.shape) + 0.5
            still &= np.hypot(columns - person.centre[0], rows - person.centre[1]) > 11  # the nose turns
        assert np.ptp(clip.frames[:, still].astype(int), axis=0).max() == 0


def test_captions_of_clips_tell_the_looks_in_order(clips):
    lengths = []
    for clip in clips:
        _, *clauses = clip.caption.split("; ")
        for figure, clause in enumerate(clauses):
            persons = [people[figure] for people in clip.people]
            seen = [target_words(clip.objects, people, people[figure]) for people in clip.people]
            start = f"a person in {persons[0].clothes} looks "
            assert clause.startswith(start)
            told = clause.removeprefix(start).split(", then ")
            assert (told[0], told[-1]) == (seen[0], seen[-1])
            assert all(a != b for a, b in pairwise(told))
            rest = iter(seen)
            assert all(words in rest for words in told)  # in this order, with what it passes in between
            lengths.append(len(told))
    assert np.mean(np.equal(lengths, 3)) > 0.9  # each look is another than the one before, if there is another


def test_few_frames_are_enough_for_a_turn():
    assert all(len(clip.people) == len(clip.frames) == 2 for clip in shapes.GazeClips(frames=2, count=5))
