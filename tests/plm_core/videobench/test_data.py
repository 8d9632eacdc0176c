"""The files of the benchmark: rows and their faults, boxes, videos and the frames that a model sees."""

import json
import logging

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image, ImageDraw

from plm_core.errors import InputError
from plm_core.videobench.data import Subjects, find_video, open_data
from plm_core.videobench.frames import draw_boxes, read_frames, uniform
from plm_core.videobench.tasks import TASKS


def test_the_tasks_are_in_the_order_of_the_published_tables(data):
    tasks = open_data(data)
    assert list(tasks) == ["fgqa", "sgqa", "rdcap", "rcap", "rtloc"]
    assert list(tasks["rcap"].rows) == ["0", "1"]
    assert tasks["sgqa"].rows["s0"]["domain"] == "home"


def test_parquet_has_the_same_rows(data):
    expected = open_data(data)
    for name in TASKS:
        file = data / name / f"plm_{name}_test.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        parquet.write_table(arrow.Table.from_pylist(rows), file.with_suffix(".parquet"))
        file.unlink()
    for name, part in open_data(data).items():
        assert part.file.suffix == ".parquet"
        assert part.rows == expected[name].rows


def test_a_folder_may_have_few_tasks_and_short_names(data, tmp_path, row, write_rows):
    write_rows(tmp_path / "flat" / "fgqa.jsonl", [row["fgqa"](7, 8)])
    assert list(open_data(tmp_path / "flat")) == ["fgqa"]
    with pytest.raises(InputError, match=r"has no file of sgqa; sgqa/plm_sgqa_test.jsonl or .* is expected"):
        open_data(tmp_path / "flat", tasks=["fgqa", "sgqa"])
    with pytest.raises(InputError, match="has no file of fgqa, sgqa, rdcap, rcap, rtloc"):
        open_data(data, "train")
    with pytest.raises(InputError, match="no task 'rtlok'; did you mean 'rtloc'"):
        open_data(data, tasks=["rtlok"])
    with pytest.raises(InputError, match="is not a folder"):
        open_data(data / "none")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON: Expecting property name enclosed in double quotes, column 2"),
        ("[1]", "no object"),
        ('{"uid": 1}', "no video, question, answer, qa_uid, options"),
        ({"options": None, "choices": {}}, "no options; unknown: choices"),
        ({"uid": True}, "uid is True; a text or a whole number is expected"),
        ({"question": ""}, "question is ''; a text that is not empty is expected"),
        ({"options": {"option_0": "left"}}, "options is {'option_0': 'left'}; two texts, option_0 and option_1"),
        ({"answer": "up"}, "answer 'up' is none of the options"),
        ({"uid": "a"}, "uid 'a' is that of line 1"),
        ("\xff", "no JSON"),
    ],
)
def test_faulty_rows_are_named_with_their_lines(tmp_path, row, line, reason, one_line):
    file = tmp_path / "fgqa.jsonl"
    text = line if isinstance(line, str) else json.dumps({**row["fgqa"]("b", "q"), **line})
    file.write_bytes(f"{json.dumps(row['fgqa']('a', 'q'))}\n\n".encode() + text.encode("latin-1") + b"\n")
    with one_line(InputError, "has faulty rows, 1 of 2: line 3 (", reason):
        open_data(tmp_path)


def test_of_many_faulty_rows_the_first_are_listed(tmp_path, one_line):
    (tmp_path / "sgqa.jsonl").write_text("{}\n" * 5)
    with one_line(InputError, "has faulty rows, 5 of 5: line 1 (", "line 3 (", " and 2 more"):
        open_data(tmp_path)
    (tmp_path / "sgqa.jsonl").write_text("\n")
    with one_line(InputError, "has no rows"):
        open_data(tmp_path)
    (tmp_path / "sgqa.jsonl").rename(tmp_path / "sgqa.parquet")
    with one_line(InputError, "cannot be read"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dense_captions": []}, "dense_captions is []; a list of start_frame, end_frame and caption is expected"),
        ({"dense_captions": [{"start_frame": 0, "end_frame": -1, "caption": "a"}]}, "a list of start_frame"),
        ({"total_frames": 0}, "total_frames is 0; a whole number from 1 is expected"),
        ({"bbox_map": {"1": [1, 2, 3]}}, "bbox_map does not map frames to [x1, y1, x2, y2] or null"),
    ],
)
def test_faulty_rows_on_regions(tmp_path, row, write_rows, fields, reason, one_line):
    piece = {"start_frame": 0, "end_frame": 1, "caption": "a"}
    write_rows(tmp_path / "rdcap.jsonl", [row["subject"](1, **{"dense_captions": [piece], **fields})])
    with one_line(InputError, "line 1 (", reason):
        open_data(tmp_path)


def test_unknown_keys_are_named_in_a_warning(tmp_path, row, write_rows, caplog):
    write_rows(tmp_path / "fgqa.jsonl", [row["fgqa"](1, "q"), {**row["fgqa"](2, "q"), "ova_id": 3}])
    with caplog.at_level(logging.WARNING, "plm_core"):
        open_data(tmp_path)
    assert "unknown keys, which are ignored: ova_id (line 2)" in caplog.text


# --- boxes and videos ---------------------------------------------------------------------------------------------


def test_boxes_are_found_by_video_and_masklet_or_in_the_row(data, row, one_line):
    subjects = Subjects(data)
    boxes = subjects.boxes(row["subject"](1))
    assert (boxes[0], sorted(boxes)) == ([10, 8, 30, 24], list(range(30)))  # others have null
    assert subjects.boxes(row["subject"](1, bbox_map={"5": [1, 2, 3, 4], "6": None})) == {5: [1, 2, 3, 4]}
    with one_line(InputError, "has no boxes of masklet 4 in 'a.mp4'"):
        subjects.boxes({**row["subject"](1), "masklet_id": 4})


@pytest.mark.parametrize("line", ["{", '{"video": "a.mp4"}', '{"video": "a", "masklet_id": 1, "bbox": {"0": [1]}}'])
def test_faulty_metadata_is_named_with_its_line(data, row, line, one_line):
    with open(data / "metadata" / "metadata_test.jsonl", "a") as file:
        file.write(line)
    with one_line(InputError, "metadata_test.jsonl, line 3"):
        Subjects(data).boxes(row["subject"](1))


def test_videos_are_looked_for_in_the_published_folders(clips, tmp_path, one_line):
    (tmp_path / "stc").symlink_to(clips)
    assert find_video([tmp_path], TASKS["rcap"], "a").name == "a.mp4"
    assert find_video([tmp_path, clips], TASKS["fgqa"], "a.mp4") == clips / "a.mp4"
    with one_line(InputError, "video 'a.mp4' is not in"):
        find_video([tmp_path], TASKS["fgqa"], "a.mp4")
    for name in ("a" * 300, "a\0b", "\ud800"):
        with one_line(InputError, "is not in"):
            find_video([clips], TASKS["fgqa"], name)
    for name in ("../clips/a.mp4", str(clips / "a.mp4")):
        with one_line(InputError, "a path below the folder of videos is"):
            find_video([clips], TASKS["fgqa"], name)


# --- frames -------------------------------------------------------------------------------------------------------


def test_frames_are_spread_evenly():
    assert uniform(5, 32) == [0, 1, 2, 3, 4]
    assert uniform(32, 32) == list(range(32))
    assert uniform(33, 32) == [*range(16), *range(17, 33)]
    assert uniform(100, 32)[:6] == [0, 3, 6, 10, 13, 16]
    assert uniform(10**6, 1) == [0]
    assert all(
        (uniform(n, 32)[0], uniform(n, 32)[-1], len(set(uniform(n, 32)))) == (0, n - 1, 32) for n in range(32, 99)
    )


def test_a_video_is_read_at_these_frames(clips, one_line):
    frames, numbers = read_frames(clips / "a.mp4", 32)
    assert numbers == uniform(40, 32)
    assert frames[:, 0, 0, 0].tolist() == [6 * number for number in numbers]
    frames, numbers = read_frames(clips / "short.mp4", 32)
    assert numbers == list(range(20))
    with one_line(InputError, "short.mp4 has 20 frames; this task needs 32 or more"):
        read_frames(clips / "short.mp4", 32, whole=True)


def test_boxes_are_drawn_by_the_number_of_the_frame(clips, one_line):
    frames, numbers = read_frames(clips / "a.mp4", 32)
    box = [10, 8, 30, 24]
    marked, _ = read_frames(clips / "a.mp4", 32, {numbers[9]: box, 2: box, 10_000: box})  # frame 2 is not shown
    assert numbers[9] != 9
    assert 2 not in numbers
    changed = [i for i in range(32) if not torch.equal(marked[i], frames[i])]
    assert changed == [9]
    picture = Image.fromarray(frames[9].numpy())
    ImageDraw.Draw(picture).rectangle(box, outline=(255, 0, 0), width=4)
    assert marked[9].numpy().tobytes() == picture.tobytes()
    red = (marked[9] == torch.tensor([255, 0, 0])).all(-1)
    assert red[8:12, 10:31].all()
    assert not red[12:21, 14:27].any()
    with one_line(InputError, "box [30, 8, 10, 24] of frame 0 is not [x1, y1, x2, y2]"):
        draw_boxes(frames, numbers, {0: [30, 8, 10, 24]})
