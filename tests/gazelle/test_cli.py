"""`plm gaze` for photos and videos, with a tiny model of random weights."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import plm_core
from gazelle import loading
from gazelle.estimation import Estimator
from plm_core import InputError, shapes
from plm_core.errors import NotSupported, NoWeights
from plm_core.video import Video

ASTRONAUT = Path(__file__).parent / "photos" / "astronaut.jpg"
BOX = "0.3,0.05,0.6,0.35"
DETECTOR = '''
import numpy as np

def two(pixels):
    """Return the right half before the left one."""
    height, width = pixels.shape[:2]
    boxes = [[width / 2, 0, width, height], [0, 0, width / 2, height]]
    return np.float32(boxes), np.float32([0.9, 0.5])

def nobody(pixels):
    return [], []

def many(pixels):
    x = np.arange(130, dtype=np.float32) % 13
    return np.stack([x, x, x + 5, x + 5], 1), np.ones(130, np.float32)

def wrong(pixels):
    return "nothing"
'''


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a model folder of a tiny model with an in/out head."""
    torch.manual_seed(0)
    options = {"backbone": "test_vit", "img_size": 160, "inout": True, "dim": 32, "num_layers": 1, "out_size": (16, 16)}
    net = plm_core.create_model("gazelle_dinov2_vitb14", **options)
    folder = tmp_path_factory.mktemp("tiny")
    plm_core.weights.save_pretrained(net, folder, license="mit")
    return str(folder)


@pytest.fixture
def run(plm, tiny, tmp_path):
    """Return a function that runs plm gaze with the tiny model, and writes to the folder out."""
    return lambda *words: plm("gaze", *words, "--out", tmp_path / "out", "--model", tiny)


@pytest.fixture
def detectors(tmp_path, monkeypatch):
    """Let ``--detector mine:two`` and others find people."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield
    sys.modules.pop("mine", None)


def data(tmp_path, name="astronaut"):
    return json.loads((tmp_path / "out" / f"{name}.gaze.json").read_text())


def save(path, mode="RGB", size=(60, 40), **options):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode).save(
        path, **options
    )
    return path


def test_a_photo(run, tiny, tmp_path):
    result = run(ASTRONAUT)
    assert result.code == 0, result.err
    assert result.rows == [
        [str(ASTRONAUT), "1", "", *(str(tmp_path / "out" / f"astronaut.gaze.{e}") for e in ("jpg", "json"))]
    ]
    found = data(tmp_path)
    assert (found["width"], found["height"], found["model"]) == (512, 512, tiny)
    assert (found["boxes"], found["points"], found["threshold"], found["note"]) == ("mtcnn", "centre", 0.5, "")
    [person] = found["people"]
    np.testing.assert_allclose(person["box"], np.array(person["box_fractions"]) * 512, atol=0.01)
    np.testing.assert_allclose(person["point"], np.array(person["point_fractions"]) * 512, atol=0.01)
    np.testing.assert_allclose(person["box"], [162, 13, 287, 175], atol=3)
    assert person["detector_score"] > 0.99
    model = plm_core.create_model(tiny, pretrained=True)
    [look] = Estimator(model)(Image.open(ASTRONAUT), [person["box_fractions"]])
    assert person["point_fractions"] == pytest.approx(look.point, abs=1e-5)
    assert (person["inside"], person["score"]) == pytest.approx((look.inside, look.score), abs=1e-3)
    assert person["looks_inside"] == (look.inside >= 0.5)
    with Image.open(tmp_path / "out" / "astronaut.gaze.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 512))
        change = np.asarray(picture).astype(int) - np.asarray(Image.open(ASTRONAUT))
    assert abs(change[13:175, 158:167]).mean() > 20, "the side of the box, which is dashed"
    assert abs(change[300:, 300:]).mean() < 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["astronaut.gaze.jpg", "astronaut.gaze.json"]


def test_given_boxes_in_fractions_and_pixels(run, tmp_path):
    assert run(ASTRONAUT, "--box", BOX, "--box", "10,20,110,120", "--corner", "--threshold", "0.01").code == 0
    found = data(tmp_path)
    assert [person["box"] for person in found["people"]] == [[153.6, 25.6, 307.2, 179.2], [10, 20, 110, 120]]
    assert [person["id"] for person in found["people"]] == [1, 2]
    assert {person["detector_score"] for person in found["people"]} == {None}
    assert (found["boxes"], found["points"]) == ("given", "corner")
    assert all(person["looks_inside"] for person in found["people"])
    assert all((16 * side).is_integer() for person in found["people"] for side in person["point_fractions"])


def test_boxes_of_a_file_and_none_for_one(run, tmp_path):
    (tmp_path / "boxes.json").write_text('{"a.png": [[0, 0, 0.5, 0.5], [3, 3, 30, 30]], "b.png": []}')
    for name in "abc":
        save(tmp_path / f"{name}.png")
    result = run(*(tmp_path / f"{name}.png" for name in "abc"), "--boxes", tmp_path / "boxes.json")
    assert result.code == 2
    assert [row[1] for row in result.rows] == ["2", "0"]
    assert "c.png' is not in the file of boxes" in result.err
    assert "1 of 3 files could not be read" in result.err
    assert "nobody was found in 1 of 3 files" in result.err
    assert "finds faces" not in result.err, "nobody was searched"
    assert len(data(tmp_path, "a")["people"]) == 2


def test_no_box_asks_where_anybody_looks(run, tmp_path):
    assert run(ASTRONAUT, "--no-box").code == 0
    [person] = data(tmp_path)["people"]
    assert (person["box"], person["box_fractions"], person["looks_at_camera"]) == (None, None, None)
    assert data(tmp_path)["boxes"] == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--box", "0.5,0.1,0.3,0.2"], "reversed or empty"),
        (["--box", "0.1,0.2,0.3"], "four finite numbers"),
        (["--box", "a,b,c,d"], "is not four numbers"),
        (["--box", "-1,2,3,4"], "outside the picture"),
        (["--box", BOX, "--no-box"], "--box and --no-box cannot be given together"),
        (["--boxes", "absent.json"], "boxes 'absent.json' cannot be read"),
        (["--detector", "yolo"], "detector 'yolo' is not known"),
        (["--heat", "some"], "heat 'some' is not allowed"),
        (["--smooth", "1"], "smooth 1.0 is not allowed"),
        (["--threshold", "2"], "threshold"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(run, words, message, tmp_path):
    result = run(ASTRONAUT, *words)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_a_box_beyond_a_photo_names_the_photo(run, tmp_path):
    save(tmp_path / "small.png")
    result = run(tmp_path / "small.png", ASTRONAUT, "--box", "10,20,110,120")
    assert result.code == 2
    assert f"box 1 of '{tmp_path / 'small.png'}' is [10.0, 20.0, 110.0, 120.0] pixels, beyond the picture" in result.err
    assert [row[0] for row in result.rows] == [str(ASTRONAUT)], "the others are done"


def test_people_are_counted_from_left_to_right_and_taken_in_parts(run, detectors, tmp_path):
    photo = save(tmp_path / "a.png")
    assert run(photo, "--detector", "mine:two").code == 0
    found = data(tmp_path, "a")
    assert [person["box"] for person in found["people"]] == [[0, 0, 30, 40], [30, 0, 60, 40]]
    assert [person["detector_score"] for person in found["people"]] == [0.5, 0.9]
    assert found["boxes"] == "mine:two"
    assert run(photo, "--detector", "mine:many").rows[0][1] == "130"
    result = run(photo, "--detector", "mine:wrong")
    assert (result.code, result.out) == (2, "")
    assert f"'{photo}': detector 'mine:wrong' returned str" in result.err


def test_nobody_is_found(run, detectors, tmp_path):
    photos = [save(tmp_path / f"{i}.png", size=(720, 480)) for i in range(7)]
    result = run(*photos, "--detector", "mine:nobody")
    assert result.code == 0
    assert result.err.count("nobody was found in 7 of 7 files") == result.err.count("\n") == 1
    assert data(tmp_path, "6")["people"] == []
    picture = np.asarray(Image.open(tmp_path / "out" / "6.gaze.jpg")).astype(int)
    assert picture[-16:, -100:].mean() < 40, "the note is on a dark band"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_photos_of_any_mode(run, mode, tmp_path):
    photo = save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode)
    assert run(photo, "--box", BOX).code == 0
    assert len(data(tmp_path, "a")["people"]) == 1


def test_a_photo_is_turned_as_its_exif_data_say(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = save(tmp_path / "a.jpg", exif=exif)
    assert run(photo, "--box", "0,0,40,60").code == 0
    found = data(tmp_path, "a")
    assert (found["width"], found["height"]) == (40, 60)
    with Image.open(tmp_path / "out" / "a.gaze.jpg") as picture:
        assert picture.width < picture.height
        assert 0x0112 not in picture.getexif()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 3)])
def test_photos_of_odd_sizes(run, size, tmp_path):
    assert run(save(tmp_path / "a.png", size=size)).code == 0
    assert run(save(tmp_path / "a.png", size=size), "--box", "0,0,1,1").code == 0
    assert len(data(tmp_path, "a")["people"]) == 1


def test_a_folder_with_names_that_are_there_twice(run, tmp_path):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "below/a.png"):
        save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    (folder / "broken.png").write_bytes(b"no photo")
    result = run(folder, folder / "a.png", "--no-box")
    assert result.code == 2
    assert f"image '{folder / 'broken.png'}' cannot be read: not an image" in result.err
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json")}
    assert names == {"a.png.gaze.json", "a.jpg.gaze.json", "below/a.gaze.json"}


def test_results_in_the_folder_itself_are_no_photos(plm, tiny, tmp_path):
    photo = save(tmp_path / "a.png")
    words = ["gaze", tmp_path, "--out", tmp_path, "--model", tiny, "--no-box"]
    assert len(plm(*words).rows) == len(plm(*words).rows) == 1
    result = plm("gaze", tmp_path / "a.gaze.jpg", photo, *words[2:])
    assert result.code == 2
    assert "would overwrite" in result.err
    other = tmp_path / "other"
    other.mkdir()
    result = plm("gaze", photo, save(other / "a.png"), *words[2:])
    assert "has one place for" in result.err
    photo.unlink()
    (other / "a.png").unlink()
    assert "was written by this command" in plm(*words).err


def test_resuming_skips_what_is_done(run, tmp_path):
    photos = [save(tmp_path / f"{i}.png") for i in range(3)]
    assert run(*photos[:2], "--no-box").code == 0
    (tmp_path / "out" / "1.gaze.json").unlink()
    before = (tmp_path / "out" / "0.gaze.jpg").stat().st_mtime_ns
    result = run(*photos, "--no-box", "--resume")
    assert [row[0] for row in result.rows] == [str(photos[1]), str(photos[2])]
    assert "1 of 3 files are done already" in result.err
    assert (tmp_path / "out" / "0.gaze.jpg").stat().st_mtime_ns == before
    result = run(*photos, "--no-box", "--resume")
    assert (result.code, result.out) == (0, "")


def test_json_on_stdout(run, tmp_path):
    [result] = json.loads(run(ASTRONAUT, "--box", BOX, "--json").out)
    written = data(tmp_path)
    assert {name: result[name] for name in written} == written
    assert result["picture"] == str(tmp_path / "out" / "astronaut.gaze.jpg")


def test_ctrl_c_says_how_to_go_on(run, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gazelle.photos.write_photo", interrupted)
    result = run(ASTRONAUT, "--no-box")
    assert result.code == 130
    assert "interrupted after 0 of 1 files; --resume goes on from here" in result.err


def test_a_video_and_a_photo(run, detectors, write_video, tmp_path):
    clip = shapes.GazeClips("heldout", size=64, frames=7, count=1, people=(1, 1))[0]
    write_video(tmp_path / "in" / "clip.mp4", clip.frames)
    save(tmp_path / "in" / "photo.png")
    (tmp_path / "in" / "text.mp4").write_text("no video")
    words = [tmp_path / "in", "--detector", "mine:two", "--every", 3, "--smooth", 0, "--batch-size", 2]
    result = run(*words)
    assert result.code == 2
    assert "text.mp4 cannot be read as a video" in result.err
    assert [row[1:3] for row in result.rows] == [["2", "7"], ["2", ""]]
    assert len(Video(tmp_path / "out" / "clip.gaze.mp4")) == 7
    with open(tmp_path / "out" / "clip.gaze.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 14
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "clip.gaze.mp4", "clip.gaze.csv", "photo.gaze.jpg", "photo.gaze.json"
    }  # fmt: skip
    assert "2 of 3 files are done already" in run(*words, "--resume").err


def test_pyav_is_named_if_it_is_missing(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    result = run(tmp_path / "clip.mp4")
    assert result.code == 2
    assert "install gazelle[video]" in result.err
    assert run(ASTRONAUT, "--no-box").code == 0, "photos need none"


def test_a_model_that_is_not_to_be_relied_on_says_so(plm, tiny, monkeypatch, tmp_path):
    model = plm_core.create_model(tiny, pretrained=True)
    monkeypatch.setattr(loading, "create_model", lambda name, pretrained: model)
    for name, note in (("random:gazelle_dinov2_vitb14", loading.RANDOM_NOTE), (None, loading.MICRO_NOTE)):
        monkeypatch.setattr(loading, "note_of", lambda model: loading.MICRO_NOTE)
        monkeypatch.setattr(loading, "_check_gaze", lambda name: None)
        words = ["--model", name] if name else []
        result = plm("gaze", ASTRONAUT, "--no-box", "--out", tmp_path / "out", *words)
        assert result.code == 0, result.err
        assert note in result.err
        assert data(tmp_path)["note"] == note
        picture = np.asarray(Image.open(tmp_path / "out" / "astronaut.gaze.jpg")).astype(int)
        assert picture[-6:, 480:].mean() < 40, "the note is on a dark band"


def test_notes_are_those_of_micro_models(tiny, tmp_path):
    assert loading.load(str(tiny)).note == ""
    micro = loading.load()
    assert micro.note == loading.MICRO_NOTE
    plm_core.weights.save_pretrained(micro.model, tmp_path / "trained", license="mit")
    assert loading.load(str(tmp_path / "trained")).note == "", "a folder may be trained on photos"


def test_models_that_are_no_models_of_gaze(tmp_path):
    for name in ("hiera_micro_digits", "test_vit", "random:test_vit"):
        with pytest.raises(NotSupported, match="is no model of gaze"):
            loading.load(name)
    with pytest.raises(NoWeights, match=r"--weights gazelle_dinov2_vitb14\.pt"):
        loading.load("gazelle_dinov2_vitb14")
    with pytest.raises(InputError, match="choose one"):
        loading.load("random:gazelle_dinov2_vitb14", tmp_path / "file.pt")
    folder = tmp_path / "digits"
    plm_core.weights.save_pretrained(plm_core.create_model("hiera_micro_digits", pretrained=True), folder)
    with pytest.raises(NotSupported, match="is no model of gaze, but Hiera"):
        loading.load(str(folder))


def test_a_released_file_is_loaded(tiny, monkeypatch, tmp_path):
    model = plm_core.create_model(tiny, pretrained=True)
    asked = []
    monkeypatch.setattr(loading, "load_release", lambda path, name: asked.append((path, name)) or model)
    loaded = loading.load(None, tmp_path / "file.pt")
    assert (loaded.name, loaded.note, asked) == ("gazelle_dinov2_vitb14", "", [(tmp_path / "file.pt", None)])
