"""The readers of datasets: exact rules on tiny copies of each format, and broken rows counted and listed."""

import json
import logging
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gazelle import data
from gazelle.data.pickles import read_plain_pickle
from gazelle.data.videoattentiontarget import smoothed
from plm_core import InputError
from plm_core.utils.images import ORIENTATION

close = pytest.approx


def picture(path, width=200, height=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path, **options)


def text(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_reading_annotations_imports_no_torch():
    readers = "gazefollow, videoattentiontarget, childplay, goo, jsons, augmentation, opening, writing"
    code = f"import sys; from gazelle.data import {readers}; assert not sys.modules.keys() & {{'torch', 'timm'}}"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- GazeFollow -----------------------------------------------------------------------------------------------


def gazefollow_row(path="train/a.jpg", eye=(0.5, 0.2), gaze=(0.6, 0.7), head=(20, 10, 60, 50), inout=1):
    values = [path, 1, 0, 0, 1, 1, *eye, *gaze, *head, *([] if inout is None else [inout]), "coco", "meta"]
    return ",".join(map(str, values))


@pytest.fixture
def gazefollow(tmp_path):
    """Return a function that writes a split of GazeFollow with rows, and returns the folder."""
    picture(tmp_path / "train" / "a.jpg")
    picture(tmp_path / "train" / "b.jpg", 50, 80)

    def write(*rows, split="train"):
        text(tmp_path / f"{split}_annotations_release.txt", *rows)
        return tmp_path

    return write


def test_each_row_of_the_training_split_is_a_person(gazefollow):
    rows = (
        gazefollow_row(),
        gazefollow_row("train/b.jpg", head=(0, 0, 10, 16), inout=0),
        gazefollow_row(eye=(0.5, 0.2), head=(100, 50, 150, 100)),
        gazefollow_row(inout=-1),
    )
    annotations = data.read_gazefollow(gazefollow(*rows))
    first, second = annotations.scenes
    assert (first.path.name, first.width, first.height, first.clip) == ("a.jpg", 200, 100, "")
    assert [person.box for person in first.people] == [(0.1, 0.1, 0.3, 0.5), (0.5, 0.5, 0.75, 1)]
    assert [person.head_id for person in first.people] == ["0", "1"]
    assert first.people[0].gaze == ((0.6, 0.7),)
    assert (second.width, second.height, second.people[0].inout) == (50, 80, 0)
    assert (len(annotations), annotations.people, annotations.left_out) == (2, 3, ())
    assert annotations.dropped == {"inout -1": 1}
    assert first.image().size == (200, 100)


def test_rows_of_a_path_and_an_eye_are_one_person_of_the_test_split(gazefollow):
    rows = [gazefollow_row(eye=(0.5, 0.2), gaze=(0.1 * i, 0.5), inout=None) for i in range(10)]
    rows.insert(3, gazefollow_row(eye=(0.25, 0.2), head=(0, 0, 20, 20), inout=None))
    rows.append(gazefollow_row(eye=("0.50", 0.9), gaze=(0.9, 0.9), head=(0, 0, 1, 1), inout=None))
    (scene,) = data.read_gazefollow(gazefollow(*rows, split="test"), "test").scenes
    first, second = scene.people
    assert first.gaze == (*((0.1 * i, 0.5) for i in range(10)), (0.9, 0.9))
    assert first.box == (0.1, 0.1, 0.3, 0.5), "it is that of the first row"
    assert (len(second.gaze), second.inout) == (1, 1)


@pytest.mark.parametrize(
    ("head", "box"),
    [
        ((60, 50, 20, 10), (0.1, 0.1, 0.3, 0.5)),
        ((-20, -1, 400, 50), (0, 0, 1, 0.5)),
        ((300, 10, 400, 50), (1, 0.1, 1, 0.5)),
    ],
)
def test_boxes_are_put_in_order_and_clipped(gazefollow, head, box):
    assert data.read_gazefollow(gazefollow(gazefollow_row(head=head))).scenes[0].people[0].box == box


def test_sizes_are_those_of_the_stored_image(gazefollow, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture(tmp_path / "train" / "turned.jpg", exif=exif)
    (scene,) = data.read_gazefollow(gazefollow(gazefollow_row("train/turned.jpg"))).scenes
    assert (scene.width, scene.height) == scene.image().size == (200, 100)


BROKEN = {
    "train/a.jpg,1,2": "3 columns, 15 are needed",
    gazefollow_row("train/absent.jpg"): "image 'train/absent.jpg': No such file or directory",
    gazefollow_row("train/text.jpg"): "image 'train/text.jpg': not an image",
    gazefollow_row(gaze=("here", 0.5)): "gaze 'here' is no number",
    gazefollow_row(head=(1, 2, "nan", 4)): "head box 'nan' is no number",
    gazefollow_row(inout=3): "inout is 3; -1, 0 and 1 are allowed",
    gazefollow_row(inout=""): "inout '' is no number",
}


@pytest.mark.parametrize(("row", "reason"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_row_is_named_with_its_line(gazefollow, tmp_path, row, reason):
    text(tmp_path / "train" / "text.jpg", "text")
    folder = gazefollow(gazefollow_row(), "", row)
    with pytest.raises(InputError, match="has 1 broken row of 2, which --skip-unreadable") as e:
        data.read_gazefollow(folder)
    assert f"line 3 ({reason})" in str(e.value)


def test_broken_rows_are_left_out_on_request(gazefollow, caplog):
    folder = gazefollow(gazefollow_row(), *[row for row in BROKEN if "text" not in row])
    with caplog.at_level(logging.WARNING):
        annotations = data.read_gazefollow(folder, skip=True)
    assert annotations.people == 1
    assert annotations.left_out == tuple(f"line {number}" for number in range(2, 8))
    assert "6 broken rows of 7, left out" in caplog.text


def test_bytes_that_are_no_text_are_a_broken_row(gazefollow, tmp_path):
    folder = gazefollow(gazefollow_row())
    with open(folder / "train_annotations_release.txt", "ab") as file:
        file.write(b"\xff\xfe\x00,1\n")
    with pytest.raises(InputError, match=r"line 2 \(no UTF-8, byte 1\)"):
        data.read_gazefollow(folder)


def test_a_file_without_rows_or_people_is_an_error(gazefollow, tmp_path):
    with pytest.raises(InputError, match="has no rows"):
        data.read_gazefollow(gazefollow())
    with pytest.raises(InputError, match="has no person whose gaze can be used"):
        data.read_gazefollow(gazefollow(gazefollow_row(inout=-1)))
    with pytest.raises(InputError, match=r"test_annotations_release.txt' cannot be read: No such file"):
        data.read_gazefollow(tmp_path, "test")
    with pytest.raises(InputError, match="split 'val' is not allowed: 'train' and 'test' are"):
        data.read_gazefollow(tmp_path, "val")


# --- VideoAttentionTarget -------------------------------------------------------------------------------------


@pytest.fixture
def vat(tmp_path):
    """Return a function that writes the people of one clip, with frames of 200 x 100, and returns the folder."""

    def write(frames=30, **people):
        for number in range(frames):
            picture(tmp_path / "images" / "show" / "1_40" / f"{number:08d}.jpg")
        for name, rows in people.items():
            text(tmp_path / "annotations" / "train" / "show" / "1_40" / f"{name}.txt", *rows)
        return tmp_path

    return write


def vat_row(frame, box=(20, 10, 60, 50), gaze=(100, 50)):
    return ",".join(map(str, [f"{frame:08d}.jpg", *box, *gaze]))


def test_boxes_are_averaged_over_eleven_rows_with_the_ends_repeated(vat):
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 100, (20, 2, 2)), 1).reshape(20, 4)
    places = [3 * i for i in range(20)]  # gaps between the frames do not matter
    annotations = data.read_vat(vat(60, s00=[vat_row(place, box) for place, box in zip(places, boxes, strict=True)]))
    padded = [boxes[0]] * 5 + [*boxes] + [boxes[-1]] * 5
    expected = [np.mean(padded[i : i + 11], 0) / [200, 100, 200, 100] for i in range(20)]
    found = [scene.people[0].box for scene in annotations.scenes]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_one_row_is_its_own_average():
    np.testing.assert_allclose(smoothed(np.array([[1.0, 2, 3, 4]])), [[1, 2, 3, 4]])


def test_smoothed_boxes_are_clipped(vat):
    annotations = data.read_vat(vat(s00=[vat_row(0, (-50, -50, 500, 300))]))
    assert annotations.scenes[0].people[0].box == (0, 0, 1, 1)


def test_one_negative_coordinate_is_zero_and_two_are_outside(vat):
    gaze = [(-1, -1), (-3, 50), (100, -0.5), (0, 0)]
    scenes = data.read_vat(vat(s00=[vat_row(i, gaze=point) for i, point in enumerate(gaze)])).scenes
    people = [scene.people[0] for scene in scenes]
    assert [person.gaze[0] for person in people] == [(-1, -1), (0, 0.5), (0.5, 0), (0, 0)]
    assert [person.inout for person in people] == [0, 1, 1, 1]


def test_frames_have_the_people_of_all_files(vat):
    folder = vat(s00=[vat_row(2), vat_row(0)], s01=[vat_row(1), vat_row(2)])
    scenes = data.read_vat(folder).scenes
    assert [scene.path.name for scene in scenes] == [f"0000000{i}.jpg" for i in range(3)]
    assert [[person.head_id for person in scene.people] for scene in scenes] == [["s00"], ["s01"], ["s00", "s01"]]
    assert {(scene.clip, scene.width, scene.height) for scene in scenes} == {("show/1_40", 200, 100)}


def test_every_sixth_frame_of_each_clip_is_taken(vat, tmp_path):
    folder = vat(s00=[vat_row(i) for i in range(14)])
    for number in range(3):
        picture(tmp_path / "images" / "show" / "50_53" / f"{number:08d}.jpg")
    text(tmp_path / "annotations" / "train" / "show" / "50_53" / "s00.txt", *[vat_row(i) for i in range(3)])
    annotations = data.read_vat(folder).every(6)
    assert [(scene.clip, scene.path.stem[-2:]) for scene in annotations.scenes] == [
        *(("show/1_40", number) for number in ("00", "06", "12")),
        ("show/50_53", "00"),
    ]
    with pytest.raises(InputError, match="step is 0; a whole number of frames"):
        annotations.every(0)


def test_photos_are_not_frames_of_a_clip(gazefollow):
    annotations = data.read_gazefollow(gazefollow(gazefollow_row(), gazefollow_row("train/b.jpg")))
    assert annotations.every(6).scenes == annotations.scenes


def test_broken_rows_of_vat_are_named_with_their_files(vat):
    rows = [vat_row(0), vat_row(0), vat_row(99), "00000001.jpg,1,2", vat_row(3, gaze=(1, "x"))]
    with pytest.raises(InputError) as e:
        data.read_vat(vat(s00=rows))
    assert "has 4 broken rows of 5" in str(e.value)
    for place in (
        "show/1_40/s00.txt line 2 (the frame of an earlier line)",
        "line 3 (no file 'show/1_40/00000099.jpg')",
        "line 4 (3 columns, 7 are needed)",
        "line 5 (coordinate 'x' is no number)",
    ):
        assert place in str(e.value)
    annotations = data.read_vat(vat(s00=rows), skip=True)
    assert (len(annotations), len(annotations.left_out)) == (1, 4)


def test_a_folder_of_another_kind_is_no_vat(tmp_path):
    with pytest.raises(InputError, match=r"has no files annotations/test/SHOW/CLIP/PERSON.txt, as VAT has them"):
        data.read_vat(tmp_path, "test")


# --- ChildPlay ------------------------------------------------------------------------------------------------

COLUMNS = "clip,frame,person_id,bbox_x,bbox_y,bbox_width,bbox_height,gaze_class,gaze_x,gaze_y,is_child"


@pytest.fixture
def childplay(tmp_path):
    """Return a function that writes a file of rows, with images of 200 x 100, and returns the folder."""
    for number in range(120, 130):
        picture(tmp_path / "images" / "video_x_120-130" / f"video_x_{number}.jpg")
    picture(tmp_path / "images" / "v_5-9-downsample" / "v_6.jpg", 50, 50)

    def write(*rows, header=COLUMNS, split="train"):
        text(tmp_path / "annotations" / split / "video_x_120-130.csv", header, *rows)
        return tmp_path

    return write


def childplay_row(frame=1, kind="inside_visible", gaze=(100, 50), clip="video_x_120-130", person="p1"):
    return ",".join(map(str, [clip, frame, person, 20, 10, 40, 40, kind, *gaze, 1]))


def test_frames_are_counted_from_the_start_of_the_clip(childplay):
    folder = childplay(childplay_row(3), childplay_row(1), childplay_row(2, clip="v_5-9-downsample", person="p2"))
    scenes = data.read_childplay(folder).scenes
    names = [f"{scene.path.parent.name}/{scene.path.name}" for scene in scenes]
    assert names == [
        "v_5-9-downsample/v_6.jpg",
        "video_x_120-130/video_x_120.jpg",
        "video_x_120-130/video_x_122.jpg",
    ]
    assert scenes[0].people[0].box == close((0.4, 0.2, 1, 1)), "it is clipped to its own image"
    person = scenes[1].people[0]
    assert (person.box, person.gaze, person.inout, person.head_id) == ((0.1, 0.1, 0.3, 0.5), ((0.5, 0.5),), 1, "p1")


def test_classes_are_dropped_and_others_are_outside(childplay):
    kinds = ("gaze_shift", "inside_occluded", "inside_uncertain", "eyes_closed", "outside_of_frame")
    rows = [childplay_row(i, kind, (-1, -1)) for i, kind in enumerate(kinds, 1)]
    annotations = data.read_childplay(childplay(*rows, childplay_row(6, gaze=(-1, -1)), childplay_row(7)))
    assert [(scene.path.stem, scene.people[0].inout) for scene in annotations.scenes] == [
        ("video_x_124", 0),
        ("video_x_126", 1),
    ]
    assert annotations.scenes[0].people[0].gaze == ((-1, -1),)
    assert annotations.dropped == {**dict.fromkeys(kinds[:4], 1), "inside_visible without a point": 1}


def test_people_of_a_frame_are_together_and_columns_may_be_in_any_order(childplay):
    names = COLUMNS.split(",")
    rows = [childplay_row(person=person).split(",") for person in ("p1", "p2")]
    turned = [",".join(reversed(row)) for row in rows]
    (scene,) = data.read_childplay(childplay(*turned, header=",".join(reversed(names)), split="val"), "val").scenes
    assert [person.head_id for person in scene.people] == ["p1", "p2"]


def test_broken_rows_of_childplay_are_named_with_their_files(childplay):
    rows = [
        childplay_row(),
        childplay_row(clip="video"),
        childplay_row(50),
        childplay_row(1.5),
        childplay_row(kind=""),
        childplay_row(gaze=("?", 1)),
        "a,b",
    ]
    annotations = data.read_childplay(childplay(*rows), skip=True)
    assert annotations.left_out == tuple(f"video_x_120-130.csv line {number}" for number in range(3, 9))
    with pytest.raises(InputError) as e:
        data.read_childplay(childplay(*rows))
    for reason in (
        "line 3 (clip 'video' is not VIDEO_START-END)",
        "line 4 (no file 'video_x_120-130/video_x_169.jpg')",
        "line 5 (frame 1.5 is no whole number)",
        "line 6 (no gaze_class)",
        "line 7 (gaze '?' is no number)",
        "and 1 more",
    ):
        assert reason in str(e.value)


def test_a_file_without_the_columns_is_an_error(childplay, tmp_path):
    with pytest.raises(InputError, match="lack the columns gaze_x, gaze_y"):
        data.read_childplay(childplay(header=COLUMNS.replace("gaze_x,gaze_y", "x,y")))
    with pytest.raises(InputError, match=r"has no files annotations/test/\*.csv"):
        data.read_childplay(tmp_path, "test")


# --- the original's JSON --------------------------------------------------------------------------------------

HEAD = {
    "bbox": [20, 10, 60, 50],
    "bbox_norm": [0.1, 0.1, 0.3, 0.5],
    "inout": 1,
    "gazex": [100],
    "gazey": [50],
    "gazex_norm": [0.5],
    "gazey_norm": [0.5],
    "head_id": 4,
}


@pytest.fixture
def written(tmp_path):
    """Return a function that writes JSON beside two images, and returns the file."""
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "images" / name)

    def write(content):
        file = tmp_path / "annotations.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


def entry(*heads, path="images/a.jpg", **more):
    return {"path": path, "heads": list(heads), "num_heads": len(heads), "width": 200, "height": 100, **more}


def test_images_of_the_original_are_read(written):
    several = {**HEAD, "gazex_norm": [0.1, 0.2], "gazey_norm": [0.3, 0.4], "inout": [1, 1], "num_annot": 2}
    outside = {**HEAD, "inout": 0, "gazex_norm": [-0.005], "gazey_norm": [-0.01]}
    unknown = {name: HEAD[name] for name in ("bbox_norm", "gazex_norm", "gazey_norm")}
    scenes = data.read_json(written([entry(HEAD, several), entry(outside, unknown, path="images/b.jpg")])).scenes
    (first, second), (third, fourth) = (scene.people for scene in scenes)
    assert (first.box, first.gaze, first.inout, first.head_id) == ((0.1, 0.1, 0.3, 0.5), ((0.5, 0.5),), 1, "4")
    assert second.gaze == ((0.1, 0.3), (0.2, 0.4))
    assert (third.gaze, third.inout) == (((-1, -1),), 0)
    assert (fourth.inout, fourth.head_id) == (None, "1")
    assert scenes[1].path.name == "b.jpg"


def test_pixels_serve_where_fractions_are_missing(written):
    head = {name: value for name, value in HEAD.items() if not name.endswith("_norm")}
    (person,) = data.read_json(written([entry({**head, "gazex": 100, "gazey": 25})])).scenes[0].people
    assert (person.box, person.gaze) == ((0.1, 0.1, 0.3, 0.5), ((0.5, 0.25),))


def test_clips_of_the_original_are_read(written, tmp_path):
    frames = [{"path": f"{name}.jpg", "heads": [HEAD]} for name in "ab"]
    file = written([{"path": "show/1_40", "width": 200, "height": 100, "frames": frames}])
    scenes = data.read_json(file, tmp_path / "images").scenes
    assert [(scene.path.name, scene.clip) for scene in scenes] == [("a.jpg", "show/1_40"), ("b.jpg", "show/1_40")]


def test_broken_entries_are_named_with_their_places(written):
    broken_heads = [
        {**HEAD, "bbox_norm": [0, 1]},
        {**HEAD, "gazex_norm": [0.1, 0.2]},
        {**HEAD, "inout": 7},
        {**HEAD, "bbox_norm": [0, 0, 1, True]},
        {"bbox_norm": [0, 0, 1, 1]},
        3,
    ]
    content = [
        entry(HEAD, *broken_heads),
        7,
        entry(HEAD, path="images/c.jpg"),
        entry(HEAD, width=0),
        {"path": "images/a.jpg", "width": 200, "height": 100, "heads": 3},
        {"path": "c", "width": 200, "height": 100, "frames": [4]},
        entry(HEAD, path="images/\0.jpg"),
        entry(HEAD, path=5),
    ]
    annotations = data.read_json(written(content), skip=True)
    assert annotations.people == 1
    heads = tuple(f"entry 0, head {number}" for number in range(1, 7))
    others = ("entry 1", "entry 2", "entry 3", "entry 4", "entry 5, frame 0", "entry 6", "entry 7")
    assert annotations.left_out == heads + others
    with pytest.raises(InputError, match=r"13 broken entries of 14.* entry 0, head 1 \(bbox of 2 numbers\)"):
        data.read_json(written(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "hold a dict"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "has no entries"),
    ],
)
def test_a_file_of_another_kind_is_an_error(written, content, reason):
    with pytest.raises(InputError, match=reason):
        data.read_json(written(content))


# --- GOO-Real -------------------------------------------------------------------------------------------------


def goo_row(name="a.png", **changes):
    boxes = np.array([[0, 0, 10, 10], [20, 10, 60, 50]], np.int64)
    return {"filename": name, "gaze_cx": 100, "gaze_cy": np.float64(50), "ann": {"bboxes": boxes}, **changes}


@pytest.fixture
def goo(tmp_path):
    """Return a function that pickles a value, or writes bytes, beside an image, and returns the file."""
    picture(tmp_path / "a.png")

    def write(content, protocol=4):
        file = tmp_path / "goo.pickle"
        file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return file

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_rows_of_goo_are_read(goo, protocol):
    for content in ([goo_row(), goo_row()], OrderedDict(x=goo_row(), y=goo_row())):
        (scene,) = data.read_goo(goo(content, protocol)).scenes
        person = scene.people[1]
        assert person == data.Person((0.1, 0.1, 0.3, 0.5), ((0.5, 0.5),), 1, "1")
        assert (scene.width, scene.height) == (200, 100)


def test_the_head_may_be_elsewhere(goo):
    (scene,) = data.read_goo(goo([goo_row(head=[0, 0, 100, 100])]), head=lambda row: row["head"]).scenes
    assert scene.people[0].box == (0, 0, 0.5, 1)


def test_one_broken_entry_is_called_so(tmp_path):
    (tmp_path / "test.json").write_text('[{"a": 1}]')
    with pytest.raises(InputError, match="has 1 broken entry of 1: entry 0"):
        data.open_gaze(tmp_path / "test.json")


def test_broken_rows_of_goo_are_numbered(goo):
    rows = [goo_row(), 3, goo_row("b.png"), {"filename": "a.png"}, goo_row(ann={"bboxes": [[1, 2]]}), goo_row(ann=[])]
    assert data.read_goo(goo(rows), skip=True).left_out == tuple(f"row {number}" for number in range(1, 6))
    with pytest.raises(InputError, match=r"row 1 \(no dict\), row 2 \(image 'b.png'.*row 3 \(no 'gaze_cx'\)"):
        data.read_goo(goo(rows))
    with pytest.raises(InputError, match="holds a int; a list of rows is expected"):
        data.read_goo(goo(3))


ARRAYS = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "booleans": np.array([True, False]),
    "words": np.array(["a", "bcd"]),
    "objects": np.array([{"a": 1}, [2], None], dtype=object),
    "nothing": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_are_read_as_they_are(goo, protocol):
    plain = [
        1,
        2.5,
        10**30,
        "ä",
        b"\xff\0",
        None,
        True,
        (1, 2),
        {3},
        frozenset({4}),
        {"a": [5]},
        np.float32(0.5),
        np.int8(3),
    ]
    read = read_plain_pickle(goo([plain, ARRAYS], protocol))
    assert read[0] == plain
    for name, array in ARRAYS.items():
        kinds = [found.dtype.newbyteorder("=") for found in (read[1][name], array)]  # NumPy may turn the bytes
        assert kinds[0] == kinds[1]
        np.testing.assert_array_equal(read[1][name], array)


class Call:
    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def hostile(marker):
    return {
        "runs a command": Call(os.system, f"touch {marker}"),
        "evaluates": Call(eval, f"open({str(marker)!r}, 'w')"),
        "opens": Call(open, str(marker), "w"),
        "imports": b"cgazelle_never_there\nx\n.",
        "numbers a value too high": b"\x80\x02]r\xff\xff\xff\x7f.",
        "takes much memory": Call(bytes, 10**15),
        "is empty": b"",
        "is cut off": pickle.dumps([goo_row()])[:-20],
        "is text": b"text",
        "holds records": np.zeros(2, [("a", "i4")]),
        "holds dates": np.array(["2020-01-01"], "M8[D]"),
    }


@pytest.mark.parametrize("name", hostile(""))
def test_a_pickle_that_is_more_is_refused_in_a_line_and_runs_nothing(goo, tmp_path, name):
    marker = tmp_path / "marker"
    with pytest.raises(InputError, match="is refused: ") as e:
        data.read_goo(goo(hostile(marker)[name]))
    assert "\n" not in str(e.value)
    assert not marker.exists()


def test_arrays_that_do_not_fit_their_data_are_refused(goo):
    good = pickle.dumps(np.arange(3, dtype="i4"), 2)
    assert good.count(b"K\x03\x85") == 1, "it is the shape (3,)"
    for shape in (b"K\x04\x85", b"J\xff\xff\xff\x7f\x85", b"J\xff\xff\xff\xff\x85", b"N\x85"):
        with pytest.raises(InputError, match="is refused: holds an array"):
            data.read_goo(goo(good.replace(b"K\x03\x85", shape)))


def test_no_pickle_changes_what_reads_the_next(goo):
    names = (b"numpy\ndtype", b"numpy\nndarray", b"_codecs\nencode", b"builtins\nset", b"collections\nOrderedDict")
    for name in names:
        change = b"\x80\x02c" + name + b"\n}X\x05\x00\x00\x00dtypeK\x01s\x86b."  # the state (None, {"dtype": 1})
        for data_ in (change, change.replace(b"\n}", b"\nN}")):
            with pytest.raises(InputError, match="is refused: "):
                data.read_goo(goo(data_))
    assert len(data.read_goo(goo([goo_row()]))) == 1


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damaged_pickles_are_read_or_refused(goo):
    good = pickle.dumps([goo_row(), ARRAYS, [1.5, {2}, "text"]], 2)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            damaged[place] = rng.integers(0, 256)
        with suppress(InputError):
            read_plain_pickle(goo(bytes(damaged)))


# --- any text -------------------------------------------------------------------------------------------------

FIELD = st.sampled_from(
    ["train/a.jpg", "0.5", "1", "-1", "0", "nan", "1e999", "", '"', "x\0y", "\ud800", "\x85", "../.."]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(FIELD, max_size=18).map(",".join), max_size=5))
def test_any_text_is_read_or_refused(tmp_path, rows):
    picture(tmp_path / "train" / "a.jpg") if not (tmp_path / "train").exists() else None
    content = "\n".join(rows).encode(errors="surrogatepass")
    places = (
        "train_annotations_release.txt",
        "annotations/train/show/clip/s00.txt",
        "annotations/train/x.csv",
    )
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes((COLUMNS.encode() + b"\n" if place.endswith("csv") else b"") + content)
    for read in (data.read_gazefollow, data.read_vat, data.read_childplay):
        for skip in (False, True):
            with suppress(InputError):
                read(tmp_path, skip=skip)


ODD = (None, True, -1, 10**400, 1.5, "", "a", "\0", "\ud800", [], [[]], [None], ["1", "2", "3", "4"], {}, {"a": 1})


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_any_value_of_the_originals_json_is_read_or_refused(written, tmp_path, odd):
    frames = [{"path": "images/a.jpg", "heads": [HEAD]}]
    clip = {"path": "show", "width": 200, "height": 100, "frames": frames}
    contents = [[odd], [entry(odd)], [{**clip, "frames": [odd]}]]
    contents += [[{**entry(HEAD), key: odd}] for key in entry()]
    contents += [[entry({**HEAD, key: odd})] for key in HEAD]
    contents += [[entry({key: value for key, value in HEAD.items() if not key.endswith("_norm")} | {"bbox": odd})]]
    contents += [[{**clip, key: odd}] for key in clip] + [
        [{**clip, "frames": [{**frames[0], key: odd}]}] for key in frames[0]
    ]
    for content in contents:
        with suppress(InputError):
            assert data.read_json(written(content)).people
