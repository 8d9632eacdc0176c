"""The files of the shapes world: rows as plm_core.lm reads them, and the five tasks of the benchmark."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from plm_core.lm.shapes_data import ask_row, write_questions
from plm_core.shapes.questions import ClipQuestions, ImageQuestions, draw_boxes, split_words
from plm_core.video import Video

SIZE, PICTURES, CLIPS = 48, 12, 6
TASKS = ("fgqa", "sgqa", "rcap", "rtloc", "rdcap")
KINDS = ("image", "multi_image", "image_region", "caption", "text", "video", "video_region")
MARKS = {"image": "<image>\n", "video": "<video>\n"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    counts = write_questions(folder, "heldout", pictures=PICTURES, clips=CLIPS, size=SIZE, seed=1)
    return folder, counts


@pytest.fixture(scope="module")
def clips():
    return list(ClipQuestions("heldout", size=SIZE, count=CLIPS, seed=1))


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def task_rows(folder, task):
    return rows_of(folder / task / f"plm_{task}_test.jsonl")


def turns(row):
    (human, assistant) = row["conversations"]
    assert (human["from"], assistant["from"]) == ("human", "assistant")
    return human["value"], assistant["value"]


def test_each_kind_and_task_has_its_file(written):
    folder, counts = written
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert files == {
        *(f"images/{number:05d}.png" for number in range(PICTURES)),
        *(f"videos/{number:05d}.mp4" for number in range(CLIPS)),
        *(f"{kind}.jsonl" for kind in KINDS),
        *(f"{task}/plm_{task}_test.jsonl" for task in TASKS),
        "datasets.yaml",
        "metadata/metadata_test.jsonl",
    }
    assert counts == {kind: len(rows_of(folder / f"{kind}.jsonl")) for kind in KINDS} | {
        task: len(task_rows(folder, task)) for task in TASKS
    }
    assert min(counts.values()) > 0


def test_the_registry_names_the_files(written):
    yaml = pytest.importorskip("yaml")
    folder, _ = written
    registry = yaml.safe_load((folder / "datasets.yaml").read_text(encoding="utf-8"))
    assert registry == {kind: {"annotation": f"{kind}.jsonl"} for kind in KINDS}


def test_pictures_are_those_of_the_world(written):
    folder, _ = written
    for number, scene in enumerate(ImageQuestions("heldout", size=SIZE, count=PICTURES, seed=1)):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"images/{number:05d}.png")), scene.image)


def test_rows_hold_the_questions_in_the_words_of_the_world(written):
    folder, _ = written
    scenes = list(ImageQuestions("heldout", size=SIZE, count=PICTURES, seed=1))
    asked = defaultdict(list)
    for kind in ("image", "image_region"):
        for row in rows_of(folder / f"{kind}.jsonl"):
            human, answer = turns(row)
            assert human.startswith("<image>\n")
            if kind == "image_region":
                assert (row["width"], row["height"]) == (SIZE, SIZE)
                ((x, y, w, h),) = row["bbox"]
                numbers = [int(edge * 1000 / SIZE) for edge in (x, y, x + w, y + h)]
                text = "[" + ",".join(f"{min(number, 999):03d}" for number in numbers) + "]"
                assert (human + answer).count("<|bbox0|>") == 1
                human, answer = (turn.replace("<|bbox0|>", text) for turn in (human, answer))
            asked[row["image"]].append((human.removeprefix("<image>\n"), answer))
    for number, scene in enumerate(scenes):
        expected = [(question.prompt, question.reply) for question in scene.questions]
        assert sorted(asked[f"images/{number:05d}.png"]) == sorted(expected)


def test_rows_have_one_marker_for_each_medium(written):
    folder, _ = written
    for kind in KINDS:
        for row in rows_of(folder / f"{kind}.jsonl"):
            if kind == "caption":
                assert set(row) in ({"image", "text"}, {"video", "text"})
                split_words(row["text"])
                continue
            human, answer = turns(row)
            paths = [path for key in MARKS for path in np.atleast_1d(row.get(key, []))]
            assert all((folder / path).is_file() for path in paths)
            marks = "".join(MARKS[key] * np.size(row[key]) for key in MARKS if key in row)
            assert human.startswith(marks)
            assert human.count("<image>") + human.count("<video>") == len(paths)
            split_words(human.removeprefix(marks).replace("<|bbox0|>", "[0]"))
            split_words(answer.replace("<|bbox0|>", "[0]"))
            assert len(paths) == {"multi_image": 2, "text": 0}.get(kind, 1)


def test_pairs_of_pictures_have_one_right_answer(written):
    folder, _ = written
    scenes = list(ImageQuestions("heldout", size=SIZE, count=PICTURES, seed=1))
    answers = Counter()
    for row in rows_of(folder / "multi_image.jsonl"):
        human, answer = turns(row)
        name = re.search(r"which picture has an? (\w+ \w+), the first or the second\?$", human)[1]
        shown = [scenes[int(path[7:12])] for path in row["image"]]
        has = [any(f"{thing.colour} {thing.shape}" == name for thing in scene.objects) for scene in shown]
        assert has == [answer == "first", answer == "second"]
        answers[answer] += 1
    assert set(answers) == {"first", "second"}


def test_a_model_that_sees_as_many_frames_as_a_clip_has_sees_each_once(written, clips):
    """Take the frames that the benchmark takes, and those that a processor of transformers takes."""
    folder, _ = written
    for number, clip in enumerate(clips):
        video = Video(folder / f"videos/{number:05d}.mp4")
        assert len(video) == 32
        for indices in ([round(i * 31 / 7) for i in range(8)], [i * 32 // 8 for i in range(8)]):
            frames = np.asarray(video.read(indices)).reshape(8, SIZE, 4, SIZE, 4, 3).mean((2, 4))
            assert np.abs(frames - clip.frames).mean() < 5  # what the encoder loses


def test_boxes_of_rows_mark_the_object_in_every_frame(written, clips):
    folder, _ = written
    rows = rows_of(folder / "video_region.jsonl")
    marked = [(number, q) for number, clip in enumerate(clips) for q in clip.questions if q.track is not None]
    assert len(rows) == len(marked)
    for row, (number, question) in zip(rows, marked, strict=True):
        assert turns(row) == (f"<video>\n{question.prompt}", question.reply)
        assert list(row["bbox_map"]) == [str(frame) for frame in range(32)]
        boxes = [row["bbox_map"][str(frame)] for frame in range(0, 32, 4)]
        assert boxes == [row["bbox_map"][str(frame)] for frame in range(3, 32, 4)]
        small = [box and [edge / 4 for edge in box] for box in boxes]
        drawn = draw_boxes(clips[number].frames, small)
        np.testing.assert_array_equal(drawn, draw_boxes(clips[number].frames, question.track))


def test_tasks_hold_the_questions_of_the_clips(written, clips):
    folder, _ = written
    for task in TASKS:
        rows = task_rows(folder, task)
        asked = [(number, q) for number, clip in enumerate(clips) for q in clip.questions if q.kind == task]
        assert len({row["uid"] for row in rows}) == len(rows) == len(asked)
        for row, (number, question) in zip(rows, asked, strict=True):
            assert row["video"] == f"{number:05d}.mp4"
            assert (
                ask_row(task, row, 8)
                == re.sub(
                    r"the \w+ (?!box)\w+(?= (do|moves|stays|grows|shrinks|spins|blinks))",
                    "the shape in the red box",
                    question.prompt,
                )
                if task in ("rcap", "rtloc", "rdcap")
                else question.prompt
            )
            if task in ("rcap", "rtloc"):
                assert (row["start_frame"] // 4, row["end_frame"] // 4) == question.span
                assert (row["start_frame"] % 4, row["end_frame"] % 4, row["total_frames"]) == (0, 3, 32)
            if task == "rcap":
                assert row["caption"] == question.answer
            if task == "rdcap":
                pieces = [
                    f"[{each['start_frame'] // 4},{each['end_frame'] // 4}] {each['caption']}"
                    for each in row["dense_captions"]
                ]
                assert ", ".join(pieces) == question.answer


def test_rows_of_one_question_share_their_uid(written, clips):
    folder, _ = written
    groups = defaultdict(list)
    for row in task_rows(folder, "fgqa"):
        assert row["options"][f"option_{row['answer_index']}"] == row["answer"]
        groups[row["qa_uid"]].append(row)
    assert len(groups) == sum(any(q.kind == "fgqa" for q in clip.questions) for clip in clips)
    for rows in groups.values():
        assert len({(row["video"], row["question"], row["answer"]) for row in rows}) == 1


def test_metadata_has_the_boxes_of_every_asked_object(written):
    folder, _ = written
    boxes = {(row["video"], row["masklet_id"]): row["bbox"] for row in rows_of(folder / "metadata/metadata_test.jsonl")}
    wanted = {(row["video"], row["masklet_id"]) for task in TASKS[2:] for row in task_rows(folder, task)}
    assert set(boxes) == wanted
    assert all(set(each) == {str(frame) for frame in range(32)} for each in boxes.values())


def test_clips_of_other_lengths_fill_32_frames(tmp_path):
    write_questions(tmp_path, pictures=1, clips=1, size=32, frames=12)
    assert len(Video(tmp_path / "videos/00000.mp4")) == 36
    (row,) = task_rows(tmp_path, "rdcap")
    assert row["total_frames"] == 36
    assert [row["dense_captions"][at][key] for at, key in ((0, "start_frame"), (-1, "end_frame"))] == [0, 35]


def test_the_same_arguments_write_the_same_rows(written, tmp_path):
    folder, _ = written
    write_questions(tmp_path, "heldout", pictures=PICTURES, clips=CLIPS, size=SIZE, seed=1)
    for file in folder.rglob("*.jsonl"):
        assert (tmp_path / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_bad_arguments_are_refused_before_a_file_is_written(tmp_path):
    for options, message in (({"clips": 0}, "count"), ({"frames": 3}, "frames"), ({"split": "test"}, "split")):
        with pytest.raises(ValueError, match=f"^{message} must be"):
            write_questions(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
