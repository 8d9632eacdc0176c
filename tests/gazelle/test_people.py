"""Faces, heads and boxes from files. The face boxes to compare with are those of facenet-pytorch 2.6.0."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from gazelle import people
from gazelle.people import mtcnn, networks
from gazelle.people.boxes import clipped, overlaps
from gazelle.people.cascade import Cascade
from gazelle.people.reading import EVERY
from plm_core.errors import InputError, MissingDependency

HERE = Path(__file__).parent
ASTRONAUT_FACE = [181.2, 62.7, 268.5, 173.1]
HOPPER_FACE = [174.4, 119.6, 355.6, 340.5]
ASTRONAUT_HEAD = [153, 16, 302, 178]  # by eye
HOPPER_HEAD = [152, 23, 377, 331]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def astronaut():
    return pixels(HERE / "photos" / "astronaut.jpg")


@pytest.fixture(scope="module")
def hopper():
    return pixels(pytest.importorskip("matplotlib.cbook").get_sample_data("grace_hopper.jpg", asfileobj=False))


@pytest.fixture(scope="module")
def pair(astronaut, hopper):
    both = np.zeros((600, 1024, 3), np.uint8)
    both[: len(astronaut), :512] = astronaut
    both[:, 512:] = hopper[:600]
    return both


@pytest.fixture(scope="module")
def find():
    return people.detector("mtcnn")


def iou(boxes, expected):
    return overlaps(np.asarray(boxes, float).reshape(-1, 4), np.asarray(expected, float).reshape(-1, 4))


# --- the networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "probability", "shifts"),
    [
        ("proposal", 12, 2.4764e-07, [-0.0409848, 0.0825512, 0.0452569, 0.1925537]),
        ("refinement", 24, 1.0896e-07, [-0.2072703, -0.0903213, 0.0927454, 0.6117200]),
        ("output", 48, 5.7970e-07, [-0.0897121, -0.0691972, 0.1352913, 0.1162440]),
    ],
)
def test_networks_are_those_of_facenet_pytorch(find, name, side, probability, shifts):
    x = torch.sin(torch.arange(3 * side * side) / 7).view(1, 3, side, side)
    face, box = getattr(find, name)(x)
    assert face.flatten().tolist() == pytest.approx([probability], rel=1e-3)
    assert box.flatten().tolist() == pytest.approx(shifts, abs=1e-5)


def test_the_proposal_network_looks_at_every_window_by_itself(find):
    """The box of a place in the output is that of the window that is cut out there."""
    x = torch.randn(1, 3, 31, 40, generator=torch.Generator().manual_seed(0))
    faces, boxes = find.proposal(x)
    row, column = 4, 7
    top, left = row * networks.STRIDE, column * networks.STRIDE
    face, box = find.proposal(x[..., top : top + networks.CELL, left : left + networks.CELL])
    torch.testing.assert_close(faces[0, row, column], face[0, 0, 0])
    torch.testing.assert_close(boxes[0, :, row, column], box[0, :, 0, 0])


def test_the_weights_are_one_small_file_of_float32_with_a_card():
    path = Path(mtcnn.shipped_file(mtcnn.WEIGHTS))
    assert path.stat().st_size <= 2_000_000
    assert {value.dtype for value in mtcnn.load_file(path).values()} == {torch.float32}
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n")
    assert "Copyright (c) 2016 Kaipeng Zhang" in card
    assert "Copyright (c) 2019-2024 Iván de Paz Centeno" in card


# --- faces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("photo", "face"), [("astronaut", ASTRONAUT_FACE), ("hopper", HOPPER_FACE)])
def test_there_is_one_face_in_each_photo(find, photo, face, request):
    found = find(request.getfixturevalue(photo))
    assert isinstance(found, people.Faces)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.boxes.shape == (1, 4)
    assert found.scores.shape == (1,)
    assert iou(found.boxes, face) > 0.85
    assert 0.99 < found.scores[0] <= 1


def test_both_faces_are_found_side_by_side_with_the_better_one_first(find, pair):
    found = find(pair)
    right = np.add(HOPPER_FACE, [512, 0, 512, 0])
    assert len(found.boxes) == 2
    assert (iou(found.boxes, [ASTRONAUT_FACE, right]).max(0) > 0.85).all()
    assert found.scores[0] >= found.scores[1]


def test_a_grey_picture_has_the_same_face_with_and_without_an_axis_of_channels(find, astronaut):
    grey = np.asarray(Image.fromarray(astronaut).convert("L"))
    flat, deep = find(grey), find(grey[..., None].repeat(3, 2))
    assert np.array_equal(flat.boxes, deep.boxes)
    assert len(flat.boxes) == 1
    assert iou(flat.boxes, ASTRONAUT_FACE) > 0.85


def test_the_colours_are_red_green_blue(find, hopper):
    """In the other order that face is less certain."""
    assert find(hopper).scores[0] > 0.9995 > find(hopper[..., ::-1]).scores.max()


def test_a_batch_has_the_faces_of_each_picture(find, astronaut):
    """Also where boxes of two pictures lie at the same place, and where one has none."""
    pictures = [astronaut, np.zeros_like(astronaut), astronaut[:, ::-1], astronaut]
    together = find.batch(pictures)
    for one, picture in zip(together, pictures, strict=True):
        alone = find(picture)
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-4)
    assert [len(one.boxes) for one in together] == [1, 0, 1, 1]
    assert find.batch([]) == []
    with pytest.raises(InputError, match=r"sizes \[\(100, 512\), \(512, 512\)\]"):
        find.batch([astronaut, astronaut[:100]])


def test_the_same_picture_has_the_same_faces(find, astronaut):
    first, second = find(astronaut), mtcnn.load()(astronaut)
    assert np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first.scores, second.scores)


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (11, 11, 3), (11, 300, 3), (300, 1, 3), (12, 12, 3), (20, 20, 3), (64, 48)]
)
@pytest.mark.parametrize("value", [0, 255])
def test_there_is_nothing_in_an_empty_or_a_tiny_picture(find, shape, value):
    found = find(np.full(shape, value, np.uint8))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


def test_noise_has_no_face(find):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert not len(find(noise).boxes)


@pytest.mark.parametrize("scale", [0.25, 0.5, 3])
def test_a_photo_has_the_same_face_in_other_sizes(find, astronaut, scale):
    side = round(512 * scale)
    found = find(np.asarray(Image.fromarray(astronaut).resize((side, side), Image.Resampling.BICUBIC)))
    assert len(found.boxes) == 1
    assert iou(found.boxes / scale, ASTRONAUT_FACE) > 0.75


def test_a_face_that_is_cut_off_by_the_edge_has_a_box_within_the_picture(find, astronaut):
    found = find(astronaut[:, 200:])
    assert len(found.boxes) == 1
    assert (found.boxes >= 0).all()
    assert found.boxes[0, 0] == 0


def test_faces_below_min_size_are_not_found(astronaut):
    """The face is 90 x 115 pixels, and the square around it is what counts."""
    assert len(mtcnn.load(min_size=60)(astronaut).boxes) == 1
    assert not len(mtcnn.load(min_size=250)(astronaut).boxes)


def test_the_smallest_face_of_a_large_picture_is_a_share_of_it(find, astronaut):
    """A face of 30 pixels is found in a picture of 1200, not in one of 3600 unless min_size says so."""
    small = np.asarray(Image.fromarray(astronaut[:256, 100:356]).resize((70, 70), Image.Resampling.LANCZOS))
    medium, large = np.full((160, 1200, 3), 128, np.uint8), np.full((160, 3600, 3), 128, np.uint8)
    medium[40:110, 40:110] = large[40:110, 40:110] = small
    assert len(find(medium).boxes) == 1
    assert not len(find(large).boxes)
    assert len(mtcnn.load(min_size=20)(large).boxes) == 1


def test_a_box_within_a_larger_one_is_dropped_and_one_in_another_picture_is_not():
    boxes = torch.tensor([[0.0, 0, 100, 100], [10, 10, 40, 40], [10, 10, 40, 40], [90, 90, 190, 190]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95])
    found = mtcnn.Candidates(boxes, scores, torch.tensor([0, 0, 1, 0]))
    kept = mtcnn.apart(found, 0.7)
    assert kept.tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    "arguments", [{"min_size": 11}, {"min_size": float("nan")}, {"thresholds": (0.5, 0.5)}, {"thresholds": (0, 0, 2)}]
)
def test_arguments_of_the_detector_have_ranges(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))} .* not allowed"):
        mtcnn.Mtcnn(**arguments)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((20, 20, 3), np.float32),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((0, 20, 3), np.uint8),
        np.zeros((1, 20, 20, 3), np.uint8),
        torch.zeros(20, 20, 3, dtype=torch.uint8),
        Image.new("RGB", (20, 20)),
    ],
    ids=["float", "RGBA", "CHW", "empty", "batch", "tensor", "PIL"],
)
def test_a_picture_is_an_array_of_bytes(find, picture):
    with pytest.raises(InputError, match="picture of shape"):
        find(picture)
    with pytest.raises(InputError, match="picture of shape"):
        people.find_heads(picture, lambda p: people.Heads([], []))


# --- the cascade of scikit-image -------------------------------------------------------------------------------------


def test_the_cascade_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependency, match=r"install gazelle\[cascade\]"):
        Cascade()


def test_the_cascade_finds_the_faces_and_no_others(pair, astronaut):
    pytest.importorskip("skimage")
    found = people.detector("cascade")(pair)
    assert len(found.boxes) == 2
    right = np.add(HOPPER_FACE, [512, 0, 512, 0])
    assert (iou(found.boxes, [ASTRONAUT_FACE, right]).max(0) > 0.6).all()
    assert found.scores.tolist() == [1, 1]
    assert len(Cascade(hits=4, min_size=24)(astronaut).boxes) > 1, "the filter has something to do"
    assert iou(people.find_heads(astronaut, "cascade").boxes, ASTRONAUT_HEAD) > 0.7
    assert Cascade()(astronaut[:20, :20]).boxes.shape == (0, 4)
    with pytest.raises(InputError, match="min_size 5 is not allowed"):
        Cascade(min_size=5)
    with pytest.raises(InputError, match="hits 0 is not allowed"):
        Cascade(hits=0)


class FakeCascade:
    """Answers as scikit-image does, and keeps what it was asked."""

    def detect_multi_scale(self, img, scale_factor, step_ratio, min_size, max_size, min_neighbor_number):
        self.asked = (min_size, max_size, min_neighbor_number)
        return [
            {"r": 20, "c": 10, "width": 30, "height": 30},
            {"r": 10, "c": 5, "width": 60, "height": 60},
            {"r": 10, "c": 90, "width": 40, "height": 40},
        ]


def test_the_cascade_keeps_the_larger_one_of_two_boxes_and_stays_within_the_picture(monkeypatch):
    fake = FakeCascade()
    monkeypatch.setattr("gazelle.people.cascade._load", lambda: fake)
    monkeypatch.setattr("gazelle.people.cascade.OVERLAP", 0.2)
    found = Cascade()(np.zeros((250, 120), np.uint8))
    assert found.boxes.tolist() == [[5, 10, 65, 70], [90, 10, 120, 50]]
    assert fake.asked == ((24, 24), (120, 120), 12)


# --- detectors and heads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("photo", "head"), [("astronaut", ASTRONAUT_HEAD), ("hopper", HOPPER_HEAD)])
def test_heads_are_where_they_are_by_eye(photo, head, request):
    found = people.find_heads(request.getfixturevalue(photo))
    assert isinstance(found, people.Heads)
    assert found.boxes.dtype == np.float32
    assert iou(found.boxes, head) > 0.75


def test_a_head_is_larger_than_its_face_and_further_up():
    heads = people.head_boxes(np.array([[100.0, 100, 200, 220], [0, 10, 50, 60]]), 400, 300, factor=1.5, shift=0.25)
    assert heads.tolist() == [[75, 40, 225, 220], [0, 0, 62.5, 60]]
    assert people.head_boxes(np.zeros((0, 4)), 400, 300).shape == (0, 4)


@pytest.mark.parametrize("arguments", [{"factor": 0}, {"factor": float("inf")}, {"shift": float("nan")}])
def test_growth_is_finite(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))} .* not allowed"):
        people.head_boxes(np.zeros((1, 4)), 10, 10, **arguments)


GREY = np.zeros((100, 200, 3), np.uint8)
BOX = np.array([[50, 40, 90, 80]], np.float32)


def outside_detector(picture):
    """A detector that "module:function" names."""
    assert picture.shape == (100, 200, 3)
    return people.Heads(BOX, np.ones(1, np.float32))


@pytest.fixture
def plugged(monkeypatch):
    monkeypatch.setitem(sys.modules, "outside_people", sys.modules[__name__])
    return "outside_people:"


def test_a_detector_is_a_name_a_reference_or_a_callable(plugged, find):
    assert people.detector() is find
    assert people.detector(outside_detector) is outside_detector
    assert people.detector(plugged + "outside_detector") is outside_detector
    assert people.find_heads(GREY, plugged + "outside_detector").boxes.tolist() == BOX.tolist()


def test_faces_are_grown_and_heads_are_not():
    score = np.ones(1, np.float32)
    assert people.find_heads(GREY, lambda p: people.Heads(BOX, score)).boxes.tolist() == BOX.tolist()
    assert people.find_heads(GREY, lambda p: (BOX.tolist(), [1])).boxes.tolist() == BOX.tolist()
    grown = people.find_heads(GREY, lambda p: people.Faces(BOX, score)).boxes
    np.testing.assert_allclose(grown, [[42, 24, 98, 80]], rtol=1e-6)


def test_heads_are_clipped_and_those_outside_the_picture_are_left_out():
    boxes = [[-10, 5, 30, 120], [210, 0, 250, 50], [10, 10, 10, 20]]
    found = people.find_heads(GREY, lambda p: people.Heads(boxes, [0.2, 0.9, 0.8]))
    assert found.boxes.tolist() == [[0, 5, 30, 100]]
    assert found.scores == np.float32(0.2)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("nobody", "detector 'nobody' is not known; 'mtcnn', 'cascade' and 'module:function' are allowed"),
        ("outside_people:missing", "cannot be used: module 'outside_people' has no attribute 'missing'"),
        (":x", "cannot be used"),
        ("outside_people:BOX", "is of type ndarray; a callable is expected"),
        ("outside_people:__name__", "is of type str; a callable is expected"),
        (3, "detector 3 cannot be called; a name, "),
    ],
)
def test_what_is_no_detector_is_said_in_one_line(plugged, which, message):
    with pytest.raises(InputError, match=message):
        people.detector(which)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned NoneType"),
        (BOX, r"returned ndarray"),
        ((BOX, [1, 2]), r"boxes \[1, 4\] and scores \[2\]"),
        ((BOX[:, :3], [1]), r"boxes \[1, 3\]"),
        ((BOX, [float("nan")]), "not finite"),
        ((BOX * np.inf, [1]), "not finite"),
    ],
)
def test_an_answer_that_is_none_is_said_in_one_line(answer, message):
    with pytest.raises(InputError, match=message):
        people.find_heads(GREY, lambda p: answer)


def test_no_head_is_no_error():
    found = people.find_heads(GREY, lambda p: ([], []))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


def test_overlaps_are_intersections_over_unions():
    shared = overlaps(
        np.array([[0.0, 0, 2, 2], [5, 5, 5, 5]]), np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [9, 9, 10, 10]])
    )
    np.testing.assert_allclose(shared, [[1 / 7, 1, 0], [0, 0, 0]])
    assert overlaps(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    assert clipped(np.array([[-1.0, -2, 30, 40]]), 20, 10).tolist() == [[0, 0, 20, 10]]


# --- boxes from text and from files -----------------------------------------------------------------------------------


def test_text_is_a_box():
    assert people.parse_box("0.1, 0.2,0.3,5e-1") == (0.1, 0.2, 0.3, 0.5)
    assert people.parse_box("10,20,300,400") == (10, 20, 300, 400)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "four finite numbers"),
        ("1,2,3,4,5", "four finite numbers"),
        ("", "is not four numbers"),
        ("a,b,c,d", "is not four numbers"),
        ("0,0,nan,1", "four finite numbers"),
        ("0,0,inf,1", "four finite numbers"),
        ("0.5,0,0.1,1", "reversed or empty"),
        ("0.1,0.5,0.2,0.5", "reversed or empty"),
        ("-0.1,0,0.2,0.5", "outside the picture"),
    ],
)
def test_text_that_is_no_box_is_named(text, message):
    with pytest.raises(InputError, match=message) as raised:
        people.parse_box(text)
    assert repr(text) in str(raised.value)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a file with something as JSON, or with text."""

    def write(content):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_a_file_has_boxes_for_every_picture(written):
    boxes = people.read_boxes(written([[0, 0, 0.5, 1], [10, 20, 30, 40]]))
    assert boxes == {EVERY: [(0, 0, 0.5, 1), (10, 20, 30, 40)]}
    assert people.boxes_of(boxes, "any/photo.jpg") == boxes[EVERY]


def test_a_file_has_boxes_by_the_names_of_pictures(written):
    boxes = people.read_boxes(str(written({"a/photo.jpg": [[0, 0, 1, 1]], "photo.jpg": [], "b.jpg": [[1, 2, 3, 4]]})))
    assert people.boxes_of(boxes, Path("a/photo.jpg")) == [(0, 0, 1, 1)]
    assert people.boxes_of(boxes, "c/photo.jpg") == []
    assert people.boxes_of(boxes, "/x/b.jpg") == [(1, 2, 3, 4)]
    assert people.boxes_of(boxes, "d.jpg") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.jpg": [[0, 0, 1, 1], [0, 0, 1]]}, r"box 2 of 'a.jpg' in '.*boxes.json' is \[0, 0, 1\]: four finite"),
        ([[0, 0, 1, 1], [1, 0, 0, 1]], r"box 2 of '.*boxes.json' is \[1.0, 0.0, 0.0, 1.0\], reversed or empty"),
        ([[5, 5, 5, 9]], "box 1 .* reversed or empty"),
        ([[0, -1, 5, 9]], "box 1 .* outside the picture"),
        ("[[0, 0, NaN, 1]]", "box 1 .* four finite"),
        ("[[0, 0, 1e999, 1]]", "box 1 .* four finite"),
        ("[[0, 0, 1" + "0" * 400 + ", 1]]", "box 1 .* four finite"),
        ([[0, 0, True, 1]], "box 1 .* four finite"),
        ([["0", "0", "1", "1"]], "box 1 .* four finite"),
        ([0, 0, 1, 1], "box 1 .* is 0: four finite"),
        ({"a.jpg": {"box": 1}}, r"the boxes of 'a.jpg' in '.*boxes.json' are .*: a list of boxes is allowed"),
        ("3", "boxes.json' holds 3: a list of boxes"),
        ("{", "boxes.json' are not JSON"),
        ("[" * 100_000, "boxes.json' are not JSON"),
        ('{"a": [], "a": []}', "a name is there twice"),
    ],
)
def test_what_a_file_has_instead_of_boxes_is_named(written, content, message):
    with pytest.raises(InputError, match=message) as raised:
        people.read_boxes(written(content))
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.json' cannot be read: No such file"):
        people.read_boxes(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"bytes.json' are not JSON: .*utf-8"):
        people.read_boxes(tmp_path / "bytes.json")


def test_values_above_one_are_pixels():
    found = people.fractions([(0, 0, 1, 1), (20, 10, 200, 50), (0.5, 0, 1.5, 1)], 200, 100)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[0, 0, 1, 1], [0.1, 0.1, 1, 0.5], [0.0025, 0, 0.0075, 0.01]])
    assert people.fractions([], 200, 100).shape == (0, 4)
    np.testing.assert_allclose(people.fractions(BOX, 200, 100), [[0.25, 0.4, 0.45, 0.8]])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(0, 0, 1, 1), (0, 0, 201, 100)], r"box 2 of photos is .*, beyond the picture of 200 x 100"),
        ([(0, 0, 200, 100.5)], "box 1 of photos .* beyond"),
        ([(300, 0, 400, 50)], "beyond"),
        ([(-1, 0, 10, 50)], "outside the picture"),
        ([(10, 0, 1, 50)], "reversed or empty"),
        ([(0, 0, float("nan"), 1)], "four finite"),
        ([(0, 0, 1)], "four finite"),
    ],
)
def test_a_box_outside_the_picture_is_named(boxes, message):
    with pytest.raises(InputError, match=message):
        people.fractions(boxes, 200, 100, "photos")


def test_a_picture_without_pixels_has_no_fractions():
    with pytest.raises(InputError, match="picture of 0 x 10 pixels"):
        people.fractions([], 0, 10)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-5, 3000)),
    st.integers(1, 2000),
    st.integers(1, 2000),
)
@example(np.array([[0.0, 0.0, 1.0, 1.0]]), 1, 1)
def test_fractions_are_in_range_or_an_error(boxes, width, height):
    """The fractions of boxes are themselves fractions, which stay as they are."""
    try:
        found = people.fractions(boxes, width, height)
    except InputError:
        return
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[:, :2] < found[:, 2:]).all()
    assert np.array_equal(people.fractions(found, width, height), found)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(2, 4000), st.integers(2, 4000))
def test_boxes_of_a_picture_go_to_fractions_and_back(data, width, height):
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    box = (x0, y0, data.draw(st.integers(x0 + 2, width)), data.draw(st.integers(y0 + 1, height)))
    found = people.fractions([box], width, height)
    np.testing.assert_allclose(found * [width, height, width, height], [box])


# --- imports ----------------------------------------------------------------------------------------------------------


def test_importing_people_imports_no_torch():
    """Neither do boxes from files or the numbers of people."""
    code = (
        "import sys, gazelle, gazelle.people as people\n"
        "people.parse_box('0,0,1,1'), people.Tracker(), people.find_heads\n"
        "print([name for name in ('torch', 'torchvision', 'timm', 'skimage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_package_is_there():
    assert set(people.__all__) <= set(dir(people))
    assert all(getattr(people, name) is not None for name in people.__all__)
