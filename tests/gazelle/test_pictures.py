"""Pictures of gaze, and what the looks of people say about each other."""

import numpy as np
import pytest
from PIL import Image

from gazelle.estimation import Look
from gazelle.pictures import PALETTE, colour_of, paint, words_of
from gazelle.relations import relate
from plm_core import InputError

LEFT, RIGHT = (0.1, 0.1, 0.3, 0.4), (0.6, 0.1, 0.8, 0.4)


def look(box=LEFT, point=(0.7, 0.7), inside=0.9, peak=0.4):
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    heatmap = peak * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 0.005)
    return Look(box, point, peak, inside, heatmap.astype(np.float32))


def grey(width=720, height=480):
    return Image.new("RGB", (width, height), (128, 128, 128))


def near(picture, colour, slack=24):
    """Return where a picture has a colour, as shares of its width and height."""
    pixels = np.asarray(picture).astype(int)
    rows, columns = np.nonzero((abs(pixels - colour) <= slack).all(-1))
    return columns / pixels.shape[1], rows / pixels.shape[0]


def test_a_person_has_a_box_a_heatmap_a_ring_and_a_tag():
    plain = np.asarray(grey()).astype(int)
    changed = abs(np.asarray(paint(grey(), [look()])).astype(int) - plain).sum(-1) > 0
    height, width = changed.shape
    assert changed[int(0.25 * height), int(0.1 * width)], "the left side of the box"
    assert changed[int(0.7 * height), int(0.7 * width)], "the point"
    assert changed[int(0.5 * height), int(0.47 * width)] or changed[200:260, 300:380].any(), "the arrow"
    x, y = near(paint(grey(), [look()], heat="none"), PALETTE[0])
    assert x.min() == pytest.approx(0.1, abs=0.01)
    assert y.max() == pytest.approx(0.7, abs=0.03), "the ring around the point"
    assert not changed[int(0.9 * height) :, : int(0.4 * width)].any()


def test_who_looks_out_of_the_picture_has_no_arrow_and_no_heatmap():
    x, y = near(paint(grey(), [look(inside=0.2)]), PALETTE[0])
    assert x.max() < 0.6
    assert y.max() < 0.55
    assert near(paint(grey(), [look(inside=0.2)], threshold=0.1), PALETTE[0])[0].max() > 0.68


def test_heatmaps_of_each_of_all_and_none():
    people = [look(), look(RIGHT, (0.2, 0.8))]
    pictures = {heat: np.asarray(paint(grey(), people, heat=heat)).astype(int) for heat in ("own", "all", "none")}
    row, column = int(0.75 * 480), int(0.65 * 720)  # beside a point
    assert (pictures["none"][row, column] == 128).all()
    assert (pictures["own"][row, column] != 128).any()
    assert (pictures["all"][row, column] != pictures["own"][row, column]).any()
    with pytest.raises(InputError, match="heat 'some' is not allowed: 'own', 'all' and 'none' are"):
        paint(grey(), people, heat="some")


def test_a_weak_heatmap_is_as_visible_as_a_strong_one_and_a_flat_one_is_not():
    faint, weak, strong = (np.asarray(paint(grey(), [look(peak=peak)])).astype(int) for peak in (0.01, 0.15, 0.9))
    assert abs(weak - strong).max() <= 2
    assert abs(faint - np.asarray(paint(grey(), [look()], heat="none"))).max() <= 10
    flat = Look(None, (0.5, 0.5), 0.3, None, np.full((8, 8), 0.3, np.float32))
    assert np.array_equal(paint(grey(), [flat]), paint(grey(), [flat], heat="none"))


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 2), (64, 64), (2000, 1500)])
def test_pictures_of_any_size(size):
    people = [look(), look(RIGHT, (0.2, 0.25)), look(None, (1, 1), None), look((0, 0, 1, 1), (0, 0), 0.1)]
    picture = paint(grey(*size), people, note="a note that is long enough for more than one line")
    factor = picture.width // size[0]
    assert picture.mode == "RGB"
    assert picture.size == (size[0] * factor, size[1] * factor)
    assert max(picture.size) >= 480


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_pictures_of_any_mode(mode):
    assert paint(Image.new(mode, (40, 30)), [look()]).mode == "RGB"
    assert paint(np.zeros((30, 40), np.uint8), [look()]).size == paint(np.zeros((30, 40, 3), np.uint8), []).size


def test_a_note_stands_below_and_leaves_the_rest_alone():
    plain, noted = (np.asarray(paint(grey(), [look()], note=note)) for note in ("", "do not rely on it"))
    changed = (plain != noted).any(-1).any(1)
    assert changed.nonzero()[0].min() > 0.9 * 480
    assert changed[-1]


def test_colours_are_those_of_the_numbers():
    assert len(set(PALETTE)) == 7
    assert colour_of(1) == colour_of(8) == PALETTE[0]
    x, _ = near(paint(grey(), [look()], ids=[3], heat="none"), PALETTE[2])
    assert len(x)


def test_who_looks_at_whom():
    """1 and 2 look at each other, 3 at 1, and 4 out of the picture, though the point is on 1."""
    middle = {LEFT: (0.2, 0.25), RIGHT: (0.7, 0.25)}
    below = (0.4, 0.7, 0.5, 0.9)
    looks = [
        look(LEFT, middle[RIGHT]), look(RIGHT, middle[LEFT]), look(below, middle[LEFT]),
        look((0.8, 0.7, 0.9, 0.9), middle[LEFT], 0.3),
    ]  # fmt: skip
    people = relate(looks, [4, 7, 9, 12], [0.9, None, 0.8, 0.7])
    assert [person.looks_at for person in people] == [7, 4, 4, None]
    assert [person.mutual for person in people] == [7, 4, None, None]
    assert [person.detector_score for person in people] == [0.9, None, 0.8, 0.7]
    assert [person.looks_inside for person in people] == [True, True, True, False]
    assert relate(looks, threshold=0.2)[3].looks_at == 1


def test_the_smallest_of_nested_heads_counts_and_never_the_own_one():
    looks = [look(RIGHT, (0.2, 0.2)), look((0, 0, 0.5, 0.5), (0.2, 0.2)), look(LEFT, (0.2, 0.2))]
    assert [person.looks_at for person in relate(looks)] == [3, 3, 2]


def test_the_rule_of_thumb_for_the_camera():
    """Who looks out of the picture, with the highest value on the own head."""
    own, other = (0.2, 0.2), (0.7, 0.7)
    cases = [(own, 0.1, LEFT), (own, 0.9, LEFT), (other, 0.1, LEFT), (own, None, LEFT), (own, 0.1, None)]
    people = [relate([look(box, point, inside)])[0] for point, inside, box in cases]
    assert [person.looks_at_camera for person in people] == [True, False, False, None, None]


@pytest.mark.parametrize(
    ("inside", "target", "words"),
    [
        (0.91, (0.9, 0.9), "1 looks into the frame 0.91"),
        (0.09, (0.9, 0.9), "1 looks out of the frame 0.91"),
        (0.91, (0.7, 0.2), "1 looks at 2, in the frame 0.91"),
        (None, (0.7, 0.2), "1 looks at 2"),
        (None, (0.9, 0.9), "1 looks at the ring"),
    ],
)
def test_tags_in_words(inside, target, words):
    assert words_of(relate([look(LEFT, target, inside), look(RIGHT, (0.5, 0.9))])[0]) == words
