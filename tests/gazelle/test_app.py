"""The local page: what it says and draws, what it answers to programs, and how it works in a browser."""

import base64
import io
import json
import runpy
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gazelle import people
from gazelle.app.answers import COLOURS, heatmap_picture, inside_words, person, report
from gazelle.app.session import MOST_PEOPLE, Desk
from gazelle.cli import app as command
from gazelle.estimation import Estimator, Look
from gazelle.loading import MICRO_NOTE
from plm_core.errors import InputError, MissingDependency, NotSupported

BOXES = [(0.1, 0.1, 0.4, 0.5), (0.6, 0.2, 0.8, 0.6)]
ROTATED = 6
"""The EXIF orientation of a photo that was taken with the camera turned."""


def a_look(box=(0.1, 0.2, 0.3, 0.6), point=(0.5, 0.25), inside=0.9, peak=0.5):
    return Look(box, point, peak, inside, np.full((4, 4), peak, np.float32))


def picture_of(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Return the path of a photo, 90 x 60 when it is upright and 60 x 90 as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    pixels = np.random.default_rng(0).integers(0, 255, (3, 2, 3), np.uint8)
    path = tmp_path_factory.mktemp("photos") / "on the beach.jpg"
    Image.fromarray(pixels).resize((60, 90), Image.Resampling.BILINEAR).save(path, exif=exif)
    return path


@pytest.fixture
def desk(model):
    return Desk(Estimator(model), lambda pixels: BOXES)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (0.93, "Very likely looks at something in the picture (93% inside)."),
        (0.5, "Probably looks at something in the picture (50% inside)."),
        (0.49, "Probably looks out of the picture (49% inside)."),
        (0.0, "Very likely looks out of the picture (0% inside)."),
        (None, "This model does not tell whether the target is in the picture."),
    ],
)
def test_in_and_out_are_said_in_words(inside, words):
    assert inside_words(inside) == words


def test_a_heatmap_is_a_picture_in_the_colour_of_its_person():
    heatmap = np.array([[0, 0.5], [1, 7]], np.float32)
    pixels = np.asarray(heatmap_picture(heatmap, "#1565c0"))
    assert (pixels[..., :3] == (0x15, 0x65, 0xC0)).all()
    assert pixels[..., 3].tolist() == [[0, 102], [204, 204]]
    shown = person(len(COLOURS) + 2, a_look())
    assert shown["colour"] == COLOURS[1]
    assert picture_of(shown["heatmap"]).size == (4, 4)


def test_the_report_has_pixels_and_fractions():
    found = report("a.jpg", (200, 100), [3], [a_look()])
    assert found == {
        "photo": "a.jpg",
        "width": 200,
        "height": 100,
        "people": [
            {
                "person": 3,
                "box": {"pixels": [20, 20, 60, 60], "fractions": [0.1, 0.2, 0.3, 0.6]},
                "point": {"pixels": [100, 25], "fractions": [0.5, 0.25]},
                "score": 0.5,
                "inside": 0.9,
            }
        ],
    }
    assert report("a.jpg", (200, 100), [1], [a_look(inside=None)])["people"][0]["inside"] is None


def test_a_photo_is_upright_for_the_model_the_detector_and_the_page(model, photo):
    seen = []
    desk = Desk(Estimator(model), lambda pixels: seen.append(pixels) or BOXES)
    opened, answer = desk.first(photo)
    upright = (90, 60)
    assert opened.picture.size == opened.scene.size == picture_of(answer["photo"]["picture"]).size == upright
    assert (seen[0].shape, seen[0].dtype) == ((60, 90, 3), np.uint8)
    assert (answer["photo"]["name"], answer["photo"]["width"], answer["photo"]["height"]) == (photo.name, *upright)
    assert [person["box"] for person in answer["people"]] == [list(box) for box in BOXES]
    assert [person["number"] for person in answer["people"]] == [1, 2]
    assert answer["message"].startswith("2 heads were found.")
    assert json.loads(json.dumps(answer)) == answer


def test_a_moved_box_is_only_decoded(desk, model, photo, monkeypatch):
    opened, before = desk.first(photo)
    monkeypatch.setattr(model.backbone, "forward", pytest.fail)
    moved = [{"number": 2, "box": [0.5, 0.5, 0.9, 0.9]}]
    after = desk.answer(opened, moved, 7)
    (expected,) = desk.estimator.look(opened.scene, [moved[0]["box"]])
    assert (after["key"], after["turn"]) == (before["key"], 7)
    (row,) = after["report"]["people"]
    assert row["person"] == 2
    assert row["score"] == pytest.approx(expected.score, abs=1e-6)
    assert row["inside"] == pytest.approx(expected.inside, abs=1e-6)
    assert row["inside"] != before["report"]["people"][1]["inside"]
    assert desk.answer(opened, [], 8)["people"] == []


@pytest.mark.parametrize(
    ("name", "contents", "error"),
    [
        ("note.jpg", b"no picture", "image 'note.jpg' cannot be read: not an image"),
        ("empty.png", b"", "image 'empty.png' cannot be read: not an image"),
        ("gone.png", None, "photo 'gone.png' cannot be read: No such file or directory"),
    ],
)
def test_a_broken_file_is_one_line_that_does_not_tell_the_folder(desk, tmp_path, name, contents, error):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    opened, answer = desk.first(tmp_path / name)
    assert opened is None
    assert answer == {"key": 0, "turn": 0, "error": error}


def test_a_photo_that_is_cut_off_is_an_error(desk, photo, tmp_path):
    (tmp_path / "half.jpg").write_bytes(photo.read_bytes()[:700])
    assert "image 'half.jpg' cannot be read: " in desk.first(tmp_path / "half.jpg")[1]["error"]


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P", "I;16"])
def test_photos_of_any_mode_are_shown(desk, tmp_path, mode):
    picture = Image.new("I;16", (20, 10), 30000) if mode == "I;16" else Image.new("RGB", (20, 10), "red").convert(mode)
    picture.save(tmp_path / "a.png")
    opened, answer = desk.first(tmp_path / "a.png")
    assert opened.picture.mode == "RGB"
    assert len(answer["people"]) == 2


def test_a_photo_that_is_taken_away_leaves_the_first_page(desk):
    assert desk.first(None) == (None, {"key": 0, "turn": 0, "message": "Choose a photo, or drop one above."})


def test_boxes_can_be_drawn_where_the_detector_fails_or_finds_nothing(model, photo):
    def fails(pixels):
        raise MissingDependency("install gazelle[cascade]")

    opened, answer = Desk(Estimator(model), fails).first(photo)
    assert answer["people"] == []
    assert answer["message"].startswith("No heads could be looked for: install gazelle[cascade]. Draw a box")
    assert len(Desk(Estimator(model), fails).answer(opened, [{"number": 1, "box": BOXES[0]}], 1)["people"]) == 1
    assert Desk(Estimator(model), lambda pixels: [(5, 5, 9, 9)]).first(photo)[1]["people"] == []
    nothing = Desk(Estimator(model), lambda pixels: []).first(photo)[1]
    assert nothing["message"].startswith("No head was found. Draw a box")
    one = Desk(Estimator(model), lambda pixels: [(-0.1, 0.1, 0.3, 0.4)]).first(photo)[1]
    assert one["message"].startswith("One head was found.")
    assert one["people"][0]["box"] == [0, 0.1, 0.3, 0.4]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (None, "people as a NoneType were sent; a list of 100 at most is expected"),
        ([{}] * (MOST_PEOPLE + 1), "101 people were sent; a list of 100 at most is expected"),
        ([7], "a person is 7; a number from 1 and a box"),
        ([{"number": 1, "box": None}], "a person is {'number': 1, 'box': None}; a number from 1 and a box"),
        ([{"number": 0, "box": BOXES[0]}], "a number from 1 and a box"),
        ([{"number": 4, "box": [0.5, 0, 0.2, 1]}], "the box of person 4 is (0.5, 0, 0.2, 1); x0 < x1"),
        ([{"number": 4, "box": [float("nan"), 0, 0.2, 1]}], "the box of person 4 is (nan, 0, 0.2, 1); four finite"),
    ],
)
def test_what_no_page_sends_is_an_error(desk, photo, asked, error):
    answer = desk.answer(desk.open(photo), asked, 3)
    assert error in answer["error"]
    assert "people" not in answer
    assert answer["turn"] == 3


def test_a_question_without_a_photo_is_an_error(desk):
    assert desk.answer(None, [], 1) == {"key": 0, "turn": 1, "error": "there is no photo; choose one first"}
    with pytest.raises(InputError, match="there is no photo"):
        desk.report(None)


def test_a_missing_gradio_is_said_before_a_model_is_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "gazelle.app.page", raising=False)
    with pytest.raises(MissingDependency, match=r"^the page needs gradio: install gazelle\[app\]$"):
        command.app(model="no_such_model")


@pytest.fixture(scope="module")
def served(model):
    """Serve the page, and return its address and its estimator, whose encodings are counted."""
    pytest.importorskip("gradio")
    from gazelle.app.page import build, launch

    class Counting(Estimator):
        encoded = 0

        def encode(self, image):
            self.encoded += 1
            return super().encode(image)

    estimator = Counting(model)
    page = build(estimator, lambda pixels: BOXES, note="a tiny model of a drawn world")
    yield SimpleNamespace(url=launch(page, browser=False), estimator=estimator, page=page)
    page.close()


@pytest.fixture(scope="module")
def client(served):
    from gradio_client import Client

    return Client(served.url, verbose=False, analytics_enabled=False)


def test_programs_get_the_json(served, client, photo, desk):
    from gradio_client import handle_file

    sent = handle_file(str(photo))
    found = client.predict(sent, None, api_name="/gaze")
    assert found == {**desk.report(photo), "photo": found["photo"]}
    (row,) = client.predict(sent, [[0.2, 0.2, 0.5, 0.5]], api_name="/gaze")["people"]
    assert row["box"]["pixels"] == [18, 12, 45, 30]
    with pytest.raises(Exception, match="the box of person 1 is"):
        client.predict(sent, [[0.5, 0.2, 0.2, 0.5]], api_name="/gaze")
    with pytest.raises(Exception, match="there is no photo"):
        client.predict(None, None, api_name="/gaze")


def test_the_page_is_for_this_computer_only(served):
    assert served.url.startswith("http://127.0.0.1:")
    assert served.page.config["analytics_enabled"] is False
    assert served.page.share_url is None


def test_a_port_that_is_taken_is_one_line(model):
    pytest.importorskip("gradio")
    from gazelle.app.page import build, launch

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"^port {port} cannot be used: it is not free$"):
            launch(build(Estimator(model), lambda pixels: []), port, browser=False)


def test_the_command_serves_a_gaze_model_and_no_other(monkeypatch, capsys):
    page = pytest.importorskip("gradio") and __import__("gazelle.app.page", fromlist=["build"])
    served, found, build = [], [], page.build
    monkeypatch.setattr(page, "build", lambda net, find, note: found.append(find) or build(net, find, note))
    monkeypatch.setattr(page, "launch", lambda *args, **options: served.append((args, options)) or "http://here/")
    monkeypatch.setattr("gradio.Blocks.block_thread", lambda page: None)
    command.app(port=8123, device="cpu", no_browser=True)
    (((blocks, port), options),) = served
    assert (port, options) == (8123, {"browser": False})
    (find_heads,) = found
    boxes = np.array([[60, 5, 80, 20], [10, 5, 30, 20]], np.float32)
    monkeypatch.setattr("gazelle.people.source.find_heads", lambda *args: people.Heads(boxes, np.ones(2, np.float32)))
    assert find_heads(np.zeros((50, 100, 3), np.uint8)) == [(0.1, 0.1, 0.3, 0.4), (0.6, 0.1, 0.8, 0.4)]
    assert MICRO_NOTE in str(blocks.config["components"])
    assert "page: http://here/ (Ctrl-C stops it)" in capsys.readouterr().err
    with pytest.raises(NotSupported, match=r"^model 'test_vit' is no model of gaze"):
        command.app(model="test_vit", device="cpu")


@pytest.fixture
def browser(served, tmp_path):
    """Start a browser."""
    tool = runpy.run_path(str(Path(__file__).parent / "browser.py"))
    if tool["BINARY"] is None:
        pytest.skip("no chromium in PATH")
    started = tool["Browser"](tmp_path)
    yield started
    started.close()


FIRST = "document.querySelector('.gaze-people li')"
BOX = "document.querySelectorAll('.gaze-box')"
"""Of the page, in JavaScript."""


def unnamed(browser):
    """Return the controls of the page that have no name for a screen reader."""
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "textbox", "spinbutton", "checkbox", "link", "application", "combobox", "slider"}
    return [
        node
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls and not node.get("name", {}).get("value")
    ]


def show_photo(browser, path):
    browser.upload("#gaze-file input[type=file]", path)
    browser.wait("document.querySelectorAll('.gaze-arrow :is(polygon, circle)').length >= 2")


def numbers(browser):
    """Return the sides of the first head box in pixels, as the number inputs have them."""
    return browser.js(f"[...{FIRST}.querySelectorAll('input[type=number]')].map((input) => input.valueAsNumber)")


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_the_page_works_in_a_browser(browser, served, photo, tmp_path, width, phone):
    browser.open(served.url, width, phone=phone)
    browser.wait("document.querySelector('.gaze-message')?.textContent.startsWith('Choose a photo')")
    assert "a tiny model of a drawn world" in browser.js("document.querySelector('#gaze-note').textContent")
    encoded = served.estimator.encoded
    show_photo(browser, photo)
    assert served.estimator.encoded == encoded + 1
    assert "2 heads were found" in browser.js("document.querySelector('.gaze-message').textContent")
    assert "inside)" in browser.js(f"{FIRST}.querySelector('.words').textContent")
    assert numbers(browser) == [9, 6, 36, 30]
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert unnamed(browser) == []

    # The keys move, resize and remove a box, and the answer follows without encoding again.
    heat = "document.querySelector('.gaze-heat').getAttribute('href')"
    before = browser.js(heat)
    browser.js(f"{BOX}[0].focus()")
    for _ in range(30):
        browser.press("ArrowRight")
    browser.wait(f"{heat} !== {json.dumps(before)} && !document.querySelector('.stale')")
    assert numbers(browser) == [36, 6, 63, 30]
    browser.press("ArrowDown", shift=True)
    assert browser.js(f"{BOX}[0].getAttribute('aria-label')").startswith("Head 1: Left 36, Top 6, Right 63, Bottom 31.")
    browser.wait("!document.querySelector('.stale')")
    browser.press("Tab")
    assert browser.js("document.activeElement.dataset.number") == "2"
    browser.press("Delete")
    browser.wait("document.querySelectorAll('.gaze-people li').length === 1")
    assert browser.js("document.activeElement.dataset.number") == "1"

    # The number inputs and the button do the same.
    side = f"{FIRST}.querySelectorAll('input[type=number]')[2]"
    browser.js(f"{side}.value = 81; {side}.dispatchEvent(new Event('change'))")
    browser.js("document.querySelector('.gaze-add').click()")
    browser.wait("document.querySelectorAll('.gaze-arrow :is(polygon, circle)').length === 2")
    browser.wait("!document.querySelector('.stale')")
    assert numbers(browser) == [36, 6, 81, 31]
    assert browser.js(f"{BOX}.length") == 2

    # The heatmap of one person is hidden alone.
    browser.js(f"{FIRST}.querySelector('input[type=checkbox]').click()")
    shown = "[...document.querySelectorAll('.gaze-heat')].map((map) => map.style.display)"
    assert browser.js(shown) == ["none", ""]

    browser.js(f"{BOX}[0].focus()")
    browser.press("ArrowRight")
    browser.js("document.querySelector('.gaze-download').click()")  # waits for the answer about the move
    file = tmp_path / "on the beach.gaze.json"
    browser.wait_for(file.exists)
    report = json.loads(file.read_text())
    assert (report["photo"], report["width"], report["height"]) == ("on the beach.jpg", 90, 60)
    assert [row["person"] for row in report["people"]] == [1, 2]
    assert report["people"][0]["box"]["pixels"] == pytest.approx([36.9, 6, 81.9, 30.6])

    assert served.estimator.encoded == encoded + 1
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith((served.url, "data:", "blob:"))] == []


def place(browser):
    """Return a function from fractions of the photo to a point of the window."""
    browser.js("document.querySelector('.gaze-photo').scrollIntoView()")
    frame = browser.js(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('.gaze svg').getBoundingClientRect())"
    )
    return lambda x, y: (frame[0] + x * frame[2], frame[1] + y * frame[3])


def test_a_finger_moves_a_box_and_draws_none(browser, served, photo):
    browser.open(served.url, 390, phone=True)
    show_photo(browser, photo)
    at = place(browser)
    browser.touch(at(0.25, 0.3), at(0.35, 0.4))
    browser.wait_for(lambda: numbers(browser) == [18, 12, 45, 36])
    browser.touch(at(0.9, 0.9), at(0.6, 0.7))
    assert browser.js(f"{BOX}.length") == 2


def test_boxes_are_drawn_and_dragged_and_errors_are_shown(browser, served, photo, tmp_path):
    browser.open(served.url, 1000)
    show_photo(browser, photo)
    at = place(browser)
    browser.drag(at(0.25, 0.4), at(0.35, 0.5))
    browser.wait("!document.querySelector('.stale')")
    assert numbers(browser) == [18, 12, 45, 36]
    browser.drag(at(0.5, 0.6), at(0.6, 0.7))  # the corner of the same box
    assert numbers(browser) == [18, 12, 54, 42]
    browser.drag(at(0.94, 0.94), at(0.74, 0.74))  # where no box is
    browser.wait("document.querySelectorAll('.gaze-people li').length === 3 && !document.querySelector('.stale')")
    assert "Left 67, Top 44, Right 85, Bottom 56." in browser.js(f"{BOX}[2].getAttribute('aria-label')")

    # Another photo may be dropped onto the first. This one is broken.
    browser.js(
        "(() => { const data = new DataTransfer(); data.items.add(new File(['x'], 'broken.png', {type: 'image/png'}));"
        "const event = new DragEvent('drop', {dataTransfer: data, bubbles: true});"
        "document.querySelector('.gaze-photo').dispatchEvent(event); })()"
    )
    browser.wait("!document.querySelector('.gaze-error').hidden")
    error = browser.js("document.querySelector('.gaze-error').textContent")
    assert error == "image 'broken.png' cannot be read: not an image"
    assert browser.js("document.querySelectorAll('.gaze-people li').length") == 0
    assert browser.complaints == []
