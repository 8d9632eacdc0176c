"""Rows of conversations: what is read, what is refused, how sources are mixed, and what becomes of bad rows."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from plm_core.errors import FileError, InputError
from plm_core.lm.data import (
    ConversationSamples,
    Mixture,
    check_data,
    load_mixture,
    load_registry,
    open_rows,
    parse_mix,
    parse_row,
)
from plm_core.lm.data.bad_rows import BadRows
from plm_core.lm.data.mixing import BLOCK, shuffled
from plm_core.lm.data.samples import read_image
from plm_core.lm.media import MediaSettings
from plm_core.training.seeding import Seeded

SMALL = MediaSettings(size=28, tokens=4, max_tiles=4, max_frames=4)


def talk(question="what?", answer="this"):
    return [{"from": "human", "value": question}, {"from": "assistant", "value": answer}]


def box_row(**fields):
    boxes = {"bbox": [[10, 20, 30, 40]], "width": 100, "height": 200}
    return {"image": "a.png", "conversations": talk("what is <|bbox0|>?"), **boxes, **fields}


GOOD = {
    "image": {"image": "a.png", "conversations": talk()},
    "multi_image": {"image": ["a.png", "b.png"], "conversations": talk("<image> and <image>?")},
    "video": {"video": "v.mp4", "start_time": 0.2, "end_time": 1, "conversations": talk()},
    "text": {"conversations": talk()},
    "caption": {"image": "a.png", "text": "a cat"},
    "image_region": box_row(),
    "video_region": {"video": "v.mp4", "bbox_map": {"0": [1, 2, 30, 20], "9": None}, "conversations": talk()},
}


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


def png(red=0, size=(30, 20)):
    file = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video):
    """Write one row of each kind with its image or video; tests do not change them."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.png").write_bytes(png(255))
    (folder / "b.png").write_bytes(png(100))
    write_video(folder / "v.mp4", np.full((50, 32, 48, 3), 80, np.uint8))
    write(folder / "rows.jsonl", *GOOD.values())
    return folder


@pytest.fixture
def samples(byte_tokenizer):
    """Return a function that makes a dataset of a source."""

    def make(source, **options):
        rows = open_rows(source) if isinstance(source, str) or hasattr(source, "suffix") else source
        return ConversationSamples(rows, byte_tokenizer, SMALL, **{"max_length": 600, "system": "", **options})

    return make


# --- rows


@pytest.mark.parametrize("kind", GOOD)
def test_a_row_of_each_kind(tmp_path, kind):
    row = parse_row({**GOOD[kind], "id": 3}, "here", tmp_path)
    assert row.kind == kind
    named = GOOD[kind].get("image") or GOOD[kind].get("video") or []
    assert [path.name for path in row.media] == ([named] if isinstance(named, str) else named)
    assert all(path.parent == tmp_path for path in row.media)
    types = {"caption": "image", "image_region": "image", "video_region": "video"}
    assert row.media_type == types.get(kind, kind)


def test_fields_of_rows():
    video = parse_row(GOOD["video"], "here")
    assert (video.start, video.end) == (0.2, 1)
    region = parse_row(GOOD["image_region"], "here")
    assert (region.boxes, region.size) == (((10, 20, 30, 40),), (100, 200))
    assert parse_row(GOOD["video_region"], "here").frame_boxes == {"0": (1, 2, 30, 20), "9": None}
    assert parse_row({**GOOD["video"], "bbox_map": {"07": None}}, "here").frame_boxes == {"7": None}
    assert parse_row(GOOD["caption"], "here").conversations == talk("", "a cat")
    assert parse_row({**GOOD["image"], "image": ["a.png"]}, "here").kind == "image"
    assert parse_row({**GOOD["image"], "video": None}, "here").kind == "image"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "here: a list, no object"),
        ({"imge": "a.png", "conversations": talk()}, "here: no key 'imge'; did you mean 'image'?"),
        ({**GOOD["image"], "video": "v.mp4"}, "here: both 'image' and 'video'"),
        ({"image": [], "conversations": talk()}, "'image' is an empty list; leave it out for text alone"),
        ({"image": "", "conversations": talk()}, "'image' is empty, no path"),
        ({"image": ["a.png", 3], "conversations": talk("<image><image>")}, "'image' is a number, no path"),
        ({"video": ["v.mp4"], "conversations": talk()}, "'video' is a list, no path"),
        ({**GOOD["image"], "start_time": 1}, "'start_time' without 'video'"),
        ({**GOOD["video"], "end_time": -1}, "'end_time' is -1; seconds from 0 on are allowed"),
        ({**GOOD["video"], "end_time": float("nan")}, "'end_time' is nan; seconds"),
        ({**GOOD["video"], "start_time": True}, "'start_time' is True; seconds"),
        (box_row(bbox=[[1, 2, 3]]), "'bbox' is no list of boxes [x, y, w, h]"),
        (box_row(bbox=[[1, 2, -3, 4]]), "'bbox' is no list of boxes [x, y, w, h]"),
        (box_row(bbox={}), "'bbox' is no list of boxes [x, y, w, h]"),
        (box_row(width=None), "'width' is None; beside 'bbox' a number of pixels is needed"),
        (box_row(height=0), "'height' is 0; beside 'bbox' a number of pixels is needed"),
        (box_row(image=None), "'bbox' without an 'image', or with several"),
        (box_row(conversations=talk("<|bbox1|>?")), "a text names <|bbox1|>, and 'bbox' has 1 boxes"),
        ({"conversations": talk("<|bbox0|>?")}, "a text names <|bbox0|>, and 'bbox' has 0 boxes"),
        ({**GOOD["image"], "width": 3}, "'width' without 'bbox'"),
        ({**GOOD["image"], "bbox_map": {"0": None}}, "'bbox_map' without 'video'"),
        ({**GOOD["video"], "bbox_map": []}, "'bbox_map' is no object with boxes by frame"),
        ({**GOOD["video"], "bbox_map": {"a": None}}, "'bbox_map' has the key 'a', no number of a frame"),
        ({**GOOD["video"], "bbox_map": {"0": [5, 0, 1, 1]}}, "'bbox_map' has [5, 0, 1, 1] at 0; [x1, y1, x2, y2] or"),
        ({"image": "a.png"}, "here: neither 'conversations' nor 'text'"),
        ({**GOOD["caption"], "conversations": talk()}, "here: both 'conversations' and 'text'"),
        ({"text": ""}, "'text' is empty, no caption"),
        ({"text": ["a"]}, "'text' is a list, no caption"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "turn 1 is from 'gpt'"),
        ({**GOOD["multi_image"], "conversations": talk("<image>")}, "the human turns have 1 <image> for 2 images"),
        ({"image": ["a", "b"], "text": "c"}, "the human turns have 0 <image> for 2 images"),
    ],
)
def test_a_row_with_something_wrong(one_line, record, message):
    with one_line(InputError, message):
        parse_row(record, "here")


def test_all_that_is_wrong_with_a_row_is_named(one_line):
    with one_line(InputError, "no key 'vide'", "'start_time' without 'video'", "neither 'conversations' nor 'text'"):
        parse_row({"vide": "v.mp4", "start_time": 1}, "here")


# --- sources


def test_lines_of_a_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps(GOOD["image"]), "", json.dumps(GOOD["text"]), "  ", "{", '"a"', "\xff", '{"a": 1']
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode("latin-1"))
    rows = pickle.loads(pickle.dumps(open_rows(file)))
    assert len(rows) == 6
    assert rows[0].media == (tmp_path / "a.png",)
    assert rows[1].place == f"{file}, line 3"
    messages = ["no JSON: Expecting property name", "a text, no object", "no UTF-8, byte 1", "no JSON: Expecting ','"]
    for index, (number, message) in enumerate(zip((5, 6, 7, 8), messages, strict=True), 2):
        with pytest.raises(InputError) as caught:
            rows[index]
        assert str(caught.value).startswith(f"{file}, line {number}: {message}")
    with pytest.raises(IndexError):
        rows[6]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": 1' + "0" * 5000 + "}"])
def test_a_line_that_python_cannot_parse(tmp_path, text):
    with pytest.raises(InputError, match=r"rows.jsonl, line 1: no JSON: "):
        open_rows(write(tmp_path / "rows.jsonl", text))[0]


def test_a_folder_of_chunks(tmp_path):
    for number in (10, 2, 0):
        write(tmp_path / f"train.chunk.{number}.jsonl", {**GOOD["text"], "id": number}, GOOD["image"])
    write(tmp_path / "other.jsonl", GOOD["text"])
    rows = open_rows(tmp_path)
    assert [rows.record(index)["id"] for index in (0, 2, 4)] == [0, 2, 10]
    assert rows[3].place == f"{tmp_path}/train.chunk.2.jsonl, line 2"
    assert rows[3].media == (tmp_path / "a.png",)
    assert open_rows(tmp_path, tmp_path / "images")[3].media == (tmp_path / "images" / "a.png",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "does not exist; a .jsonl file, a .tar file"),
        ("empty.jsonl", "has no rows"),
        ("rows.json", "ends in .json; a .jsonl file"),
        ("folder", "has no rows; a .jsonl file"),
        ("broken.tar", "is no plain tar file"),
    ],
)
def test_a_source_that_is_none(tmp_path, one_line, name, message):
    for file in ("empty.jsonl", "rows.json", "broken.tar"):
        (tmp_path / file).write_text("\n" if file != "broken.tar" else "hello")
    (tmp_path / "folder").mkdir()
    with one_line(InputError, name, message):
        open_rows(tmp_path / name)


def test_shards_of_webdataset(tmp_path, folder, samples):
    two = {"image": ["0.png", "1.png"], "conversations": talk("<image> or <image>?")}
    with webdataset.ShardWriter(str(tmp_path / "%d.tar"), maxcount=3, verbose=0) as writer:
        writer.write({"__key__": "a", "png": png(9), "json": {"image": "train/9.jpg", "conversations": talk()}})
        writer.write({"__key__": "b", "0.png": png(), "1.png": png(), "json": two})
        writer.write({"__key__": "c", "png": png(), "txt": "a cat"})
        writer.write({"__key__": "d", "mp4": (folder / "v.mp4").read_bytes(), "json": {"text": "grey"}})
        writer.write({"__key__": "e", "json": {"conversations": talk()}})
        writer.write({"__key__": "f", "a.png": png(), "b.png": png(), "json": {"image": "jpg", "text": "a cat"}})
        writer.write({"__key__": "g", "a.png": png(), "b.png": png(), "json": {"text": "a cat"}})
        writer.write({"__key__": "h", "png": png(), "cls": "3"})
        writer.write({"__key__": "i", "png": png(), "json": {**two, "image": ["png", "1.png"]}})
    rows = pickle.loads(pickle.dumps(open_rows(tmp_path)))
    assert [rows[index].kind for index in range(5)] == ["image", "multi_image", "caption", "caption", "text"]
    assert read_image(rows[0].media[0]).getpixel((0, 0))[0] == 9
    assert [len(samples(rows)[index].chunks) for index in range(4)] == [5, 2, 5, 4]
    for index, message in enumerate(
        (
            r"1.tar, f: there is no file 'jpg' in the sample, but ",
            r"2.tar, g: the sample has a.png, b.png, of which its JSON must name one as 'image' or 'video'",
            r"2.tar, h: there is no .json and no .txt",
            r"2.tar, i: there is no file '1.png' in the sample",
        ),
        5,
    ):
        with pytest.raises(InputError, match=message):
            rows[index]
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InputError, match="ends in the middle of a"):
        rows[0]


def test_a_table_of_hugging_face(tmp_path, samples):
    import datasets

    table = datasets.Dataset.from_dict(
        {
            "image": [[{"bytes": png(7), "path": None}], [{"bytes": png(), "path": None}] * 2, None],
            "conversations": [talk(), talk("<image> <image>"), talk()],
        },
        features=datasets.Features(
            {
                "image": datasets.List(datasets.Image()),
                "conversations": datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
            }
        ),
    )
    table.save_to_disk(str(tmp_path / "table"))
    rows = open_rows(tmp_path / "table")
    assert [rows[index].kind for index in range(3)] == ["image", "multi_image", "text"]
    assert read_image(rows[0].media[0]).getpixel((0, 0))[0] == 7
    assert rows[2].place == f"{tmp_path / 'table'}, row 2"
    assert len(samples(rows)[1].chunks) == 2
    with pytest.raises(InputError, match="label= and image= are for labelled images"):
        open_rows(f"hf:{tmp_path / 'table'},label=a")
    table.select([]).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"has no rows|cannot be loaded"):
        open_rows(tmp_path / "none")


# --- registries and mixtures


@pytest.fixture
def registry(tmp_path):
    """Write a registry of two sources with 5 and 3 rows."""
    for name, count in (("first", 5), ("second", 3)):
        write(tmp_path / name / "rows.jsonl", *({**GOOD["image"], "id": number} for number in range(count)))
    file = tmp_path / "data.yaml"
    file.write_text("first: {annotation: first/rows.jsonl}\nsecond: {annotation: second/rows.jsonl, root_dir: images}")
    return file


def test_a_registry(registry):
    entries = load_registry(registry)
    assert [len(entries[name].open()) for name in ("first", "second")] == [5, 3]
    assert entries["first"].open()[0].media == (registry.parent / "first" / "a.png",)
    assert entries["second"].open()[0].media == (registry.parent / "images" / "a.png",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {annotation: x, root: y}", "a: no key 'root'; did you mean 'root_dir'?"),
        ("a: {root_dir: y}", "a: annotation is None; a path is needed"),
        ("a: {annotation: x, root_dir: 3}", "a: root_dir is 3; a path is needed"),
        ("a: rows.jsonl", "a: 'rows.jsonl' is no entry, as in 'annotation: rows.jsonl'"),
        ("- a", "has no names with entries"),
        ("", "has no names with entries"),
        ("a: {annotation: [", "is no YAML: line 1"),
    ],
)
def test_a_registry_with_something_wrong(tmp_path, one_line, text, message):
    (tmp_path / "data.yaml").write_text(text)
    with one_line(InputError, message):
        load_registry(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("frist:1", "no dataset 'frist'; did you mean 'first'?"),
        ("first", "mix 'first' has 'first'; name:weight,name:weight is allowed"),
        ("first:1,", "has ''; name:weight"),
        ("first:1,first:2", "has 'first' twice"),
        ("first:a", "mix: the weight of first is no number"),
        ("first:0", "the weight of first is 0; more than 0 is allowed"),
        ("first:inf", "the weight of first is inf; more than 0"),
    ],
)
def test_a_mix_that_is_not_allowed(registry, one_line, mix, message):
    with one_line(InputError, message):
        load_mixture(registry, mix)


def test_weights_of_a_mix():
    assert parse_mix("hf:name:1, b:0.5") == {"hf:name": 1, "b": 0.5}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000])
def test_an_order_of_rows_has_each_row_once(count):
    orders = [[shuffled(place, count, (7, turn)) for place in range(count)] for turn in range(2)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count > 4:
        assert orders[0] != orders[1]
        assert orders[0] != list(range(count))


def test_a_mixture_uses_each_row_once_in_a_pass(registry):
    mixture = load_mixture(registry, "first:3,second:1", length=2 * BLOCK, seed=1)
    choices = [mixture.choice(index) for index in range(len(mixture))]
    for name, count, share in (("first", 5, 0.75), ("second", 3, 0.25)):
        used = [(row, turn) for source, row, turn in choices if source == name]
        assert abs(len(used) / len(choices) - share) < 0.03
        assert [turn for _, turn in used] == [number // count for number in range(len(used))]
        passes = [{row for row, turn in used if turn == wanted} for wanted in range(len(used) // count)]
        assert all(rows == set(range(count)) for rows in passes)
    assert len({tuple(row for source, row, t in choices if (source, t) == ("first", turn)) for turn in range(99)}) > 30


def test_a_mixture_goes_on_where_it_was(registry):
    """An index gives the same row whatever was asked before, in any process, so a training resumes with its data."""
    whole = load_mixture(registry, "first:3,second:1", length=3 * BLOCK, seed=1)
    choices = [whole.choice(index) for index in range(0, len(whole), 7)]
    resumed = pickle.loads(pickle.dumps(load_mixture(registry, "first:3,second:1", length=3 * BLOCK, seed=1)))
    assert [resumed.choice(index) for index in reversed(range(0, len(whole), 7))] == choices[::-1]
    other = load_mixture(registry, "first:3,second:1", length=3 * BLOCK, seed=2)
    assert [other.choice(index)[0] for index in range(0, len(whole), 7)] != [name for name, _, _ in choices]
    name, row, _ = resumed.choice(100)
    assert resumed[100].place == resumed.place(100) == f"{registry.parent / name / 'rows.jsonl'}, line {row + 1}"


def test_the_length_and_the_weights_of_a_mixture_are_checked(registry, one_line):
    first = load_registry(registry)["first"].open()
    assert len(Mixture({"first": first}, {"first": 1.0})) == 5
    with one_line(InputError, "length 0 is not allowed: 1 or more is"):
        Mixture({"first": first}, {"first": 1.0}, 0)
    with one_line(InputError, "weights are for second; sources: first"):
        Mixture({"first": first}, {"second": 1.0})
    with pytest.raises(IndexError):
        Mixture({"first": first}, {"first": 1.0}, 3)[3]


# --- samples


def test_a_sample_of_each_kind(folder, samples, byte_tokenizer):
    data = samples(folder / "rows.jsonl")
    found = dict(zip(GOOD, (data[index] for index in range(len(data))), strict=True))
    counts = {kind: 0 if sample.chunks is None else len(sample.chunks) for kind, sample in found.items()}
    # a picture is its thumbnail and four tiles
    assert counts["text"] == 0
    assert counts["multi_image"] == 2
    assert counts["video"] == counts["video_region"] == 4
    assert counts["image"] == counts["caption"] == counts["image_region"] == 5
    for kind, sample in found.items():
        assert len(sample.media_positions) == 4 * counts[kind]
        assert (sample.input_ids[sample.media_positions] == 258).all()
        assert len(sample.labels) == len(sample.input_ids)
        assert sample.media_positions.dtype == sample.input_ids.dtype == torch.long
    assert "what is [100,100,400,300]?" in byte_tokenizer.decode(found["image_region"].input_ids.tolist())
    assert torch.allclose(found["image"].chunks[:, 0], torch.tensor(1.0))  # full red
    assert torch.equal(found["multi_image"].chunks[0], found["image"].chunks[0])


def test_the_region_of_a_video_is_drawn_where_it_is_seen(folder, samples):
    data = samples(folder / "rows.jsonl")
    plain, drawn = data[2].chunks, data[6].chunks
    assert plain.std() < 0.02  # one colour
    assert drawn[0, 0].max() > 0.9  # red
    assert torch.allclose(drawn[1:], drawn[1:].mean(), atol=0.02)


def test_boxes_are_pixels_of_the_image_as_it_is_stored(samples, tmp_path):
    exif = Image.Exif()
    exif[274] = 3  # upside down
    image = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8))
    image.save(tmp_path / "a.png", exif=exif)
    shown, stored = samples(write(tmp_path / "rows.jsonl", GOOD["image"], GOOD["image_region"]))
    assert torch.allclose(shown.chunks[0], stored.chunks[0].flip(1, 2), atol=0.02)
    assert not torch.allclose(shown.chunks[0], stored.chunks[0], atol=0.02)


def test_times_in_the_wrong_order_are_swapped(folder, samples, tmp_path):
    video = {**GOOD["video"], "video": str(folder / "v.mp4"), "start_time": 1, "end_time": 0.2}
    assert len(samples(write(tmp_path / "rows.jsonl", video))[0].chunks) == 4


def test_a_caption_of_the_warm_up(folder, samples, byte_tokenizer):
    sample = samples(folder / "rows.jsonl", mode="warmup")[4]
    text = byte_tokenizer.decode(sample.input_ids.tolist())
    assert text == "<|image|>" * (4 * len(sample.chunks)) + "a cat\n"


def test_images_of_questions_that_do_not_fit_are_left_out(folder, samples, tmp_path):
    turns = [*talk("<image>?", "yes"), *talk("<image>" + "a" * 300, "no")]
    row = {"image": [str(folder / "a.png"), str(folder / "b.png")], "conversations": turns}
    sample = samples(write(tmp_path / "rows.jsonl", row), max_length=200)[0]
    assert len(sample.media_positions) == 4
    assert len(sample.chunks) == 1


@pytest.fixture
def bad(tmp_path):
    """Write rows of which five are bad."""
    (tmp_path / "cut.png").write_bytes(png()[:45])
    (tmp_path / "cut.mp4").write_bytes(b"no video")
    return write(
        tmp_path / "rows.jsonl",
        GOOD["text"],
        {"image": "none.png", "conversations": talk()},
        {"image": "cut.png", "conversations": talk()},
        {"video": "cut.mp4", "conversations": talk()},
        {"conversations": talk("a" * 600)},
        {"conversations": talk(answer="a" * 600)},
        *[{**GOOD["text"], "id": number} for number in range(9)],
    )


REASONS = ("none.png", "cut.png", "cut.mp4", "the first question has 6", "no answer fits into max_length 500")


def test_the_first_bad_row_is_an_error(bad, samples, one_line):
    data = samples(bad, max_length=500)
    for index, reason in enumerate(REASONS, 1):
        with one_line(InputError, f"{bad}, line {index + 1}: ", reason, "max_bad=1 or more leaves such rows out"):
            data[index]
    assert data[0].chunks is None


def test_bad_rows_are_counted_listed_and_replaced(bad, samples, tmp_path):
    report = tmp_path / "out" / "bad.jsonl"
    data = samples(bad, max_length=500, max_bad=5, report=report)
    first = [data[index] for index in range(len(data))]
    assert all((sample.labels != -100).any() for sample in first)
    listed = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(row["row"] for row in listed) == [f"{bad}, line {number}" for number in range(2, 7)]
    for row, reason in zip(sorted(listed, key=lambda row: row["row"]), REASONS, strict=True):
        assert reason in row["reason"]
        assert not row["reason"].startswith(str(bad))
    # another process, or the same training resumed, reads the report and takes the same rows
    again = samples(bad, max_length=500, max_bad=5, report=report)
    for index in reversed(range(len(again))):
        assert torch.equal(again[index].input_ids, first[index].input_ids)
    assert len(again.bad_rows) == 5
    assert len(report.read_text().splitlines()) == 5
    with report.open("a") as file:  # which another process is writing
        file.write('{"row": "')
    assert len(BadRows(5, report)) == 5


def test_rows_are_drawn_until_one_is_good(samples, tmp_path):
    rows = write(tmp_path / "rows.jsonl", GOOD["text"], *[{"image": "none.png", "text": "a"}] * 3)
    data = samples(rows, max_bad=3)
    assert all(torch.equal(data[index].input_ids, data[0].input_ids) for index in range(4))


def test_more_bad_rows_than_allowed_are_an_error(bad, samples, tmp_path, one_line):
    report = tmp_path / "bad.jsonl"
    data = samples(bad, max_length=500, max_bad=2, report=report)
    with one_line(InputError, "more than max_bad=2 rows cannot be used, which are listed in", "the last one is"):
        for index in range(1, 6):
            data[index]
    assert len(report.read_text().splitlines()) == 3


def test_without_a_report_there_are_warnings(bad, samples, caplog):
    data = samples(bad, max_length=500, max_bad=5)
    assert (data[1].labels != -100).any()
    assert f"left out: {bad}, line 2: image" in caplog.text


def test_data_of_bad_rows_alone_end_in_an_error(tmp_path, samples, one_line):
    rows = write(tmp_path / "rows.jsonl", *[{"image": "none.png", "conversations": talk()}] * 3)
    with one_line(InputError, "20 rows that were drawn for sample 1 cannot be used; see plm check-data --media"):
        samples(rows, max_bad=9)[1]


def test_a_report_that_is_none_or_cannot_be_written(tmp_path, one_line):
    (tmp_path / "notes.txt").write_text("hello\n")
    with one_line(InputError, "is no list of bad rows; name another file"):
        BadRows(1, tmp_path / "notes.txt").add("a", "b")
    with one_line(FileError, "cannot write"):
        BadRows(1, "/proc/none/bad.jsonl").add("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "chatt"}, "mode 'chatt' is not allowed: 'chat' and 'warmup' are"),
        ({"max_length": 1}, "max_length 1 is not allowed: 2 or more is"),
        ({"max_bad": -1}, "max_bad -1 is not allowed: 0 or more is"),
    ],
)
def test_options_of_samples(folder, samples, one_line, options, message):
    with one_line(InputError, message):
        samples(folder / "rows.jsonl", **options)


def test_the_training_loop_reads_them(folder, samples):
    data = Seeded(samples(folder / "rows.jsonl"), seed=0, aug_repeats=1)
    index, (sample,) = data[3]
    assert index == 3
    assert sample.kind == "text"


# --- plm check-data


def test_a_good_source(folder, plm):
    result = plm("check-data", folder / "rows.jsonl", "--media")
    assert result.code == 0, result.err
    assert [row[1:] for row in result.rows] == [[kind, "1"] for kind in GOOD]


def test_faults_of_a_file(bad, plm, tmp_path):
    write(tmp_path / "more.jsonl", GOOD["text"], "{", {"imge": 1}, {"image": "none.png", "text": "a"})
    result = plm("check-data", tmp_path / "more.jsonl", "--limit", 1)
    assert result.code == 1
    assert result.out.splitlines()[1:] == [
        f"{tmp_path}/more.jsonl\ttext\t1",
        f"{tmp_path}/more.jsonl\tcaption\t1",
        f"{tmp_path}/more.jsonl\tfaulty\t2",
        f"fault: {tmp_path}/more.jsonl, line 2: no JSON: Expecting property name enclosed in double quotes, column 2",
        "faults that are not listed: 1",
    ]
    report = json.loads(plm("check-data", bad, "--media", "--json").out)
    assert report["faulty"] == 3
    assert report["datasets"][0]["kinds"] == {"text": 12}
    for number, (fault, reason) in enumerate(zip(report["faults"], ("No such file", "", "video"), strict=True), 2):
        assert fault.startswith(f"{bad}, line {number}: ")
        assert reason in fault


def test_faults_of_a_registry(registry, plm):
    write(registry.parent / "second" / "rows.jsonl", {"image": 3, "text": "a"})
    registry.write_text(registry.read_text() + "\nthird: {annotation: none.jsonl}")
    result = plm("check-data", registry)
    assert result.code == 1
    assert result.rows[:3] == [["first", "image", "5"], ["second", "faulty", "1"], ["third", "faulty", "1"]]
    assert "line 1: 'image' is a number, no path" in result.out
    assert f"fault: third: data '{registry.parent}/none.jsonl' does not exist" in result.out


def test_a_source_that_is_not_there(plm, tmp_path):
    result = plm("check-data", tmp_path / "none.jsonl")
    assert result.code == 2
    assert result.err.startswith("plm: error: data '")


def test_images_in_rows_are_counted_one_by_one(folder, tmp_path):
    row = {"image": [str(folder / "a.png"), "none.png"], "conversations": talk("<image> <image>")}
    report = check_data(write(tmp_path / "rows.jsonl", row), media=True)
    assert report.faults == [f"{tmp_path}/rows.jsonl, line 1: image 2: No such file or directory"]
