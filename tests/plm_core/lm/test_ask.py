"""``plm ask`` and ``plm chat``: one question, a file of many, a conversation, and what is not allowed."""

import io
import json
import sys

import numpy as np
import pytest

from plm_core import InputError
from plm_core.cli import notes
from plm_core.lm import asking
from plm_core.lm.prompts import Prompt, VideoClip


@pytest.fixture(scope="module")
def photo(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    picture().save(path)
    return path


@pytest.fixture
def clip(write_video, tmp_path):
    """A video of four seconds, at 25 frames a second."""
    path = tmp_path / "clip.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 255, (100, 32, 48, 3), dtype=np.uint8))
    return path


@pytest.fixture
def loaded(assistant, monkeypatch):
    """Let the commands answer by `assistant` without loading it, and return the arguments that they load it by."""
    calls = []

    def load(source, **options):
        calls.append({"source": source, **options})
        return assistant

    monkeypatch.setattr(asking, "load_assistant", load)
    return calls


class Terminal(io.StringIO):
    def isatty(self):
        return True


# --- one question -------------------------------------------------------------------------------------------------


def test_a_question_about_a_photo(plm, assistant, model_folder, photo):
    result = plm("ask", photo, "what is it?", "--model", model_folder, "--max-new-tokens", 4, "--device", "cpu")
    answer = assistant.ask("what is it?", [photo], max_new_tokens=4)
    assert result.code == 0
    assert result.out == f"{answer.text}\n"
    assert result.err.splitlines() == [
        f"model: {model_folder}",
        f"tokens: 5 visual (of 5 tiles or frames) of {answer.prompt_tokens} in the prompt, {answer.new_tokens} in the "
        f"answer{'' if answer.finished else ', cut off'}",
    ]


def test_what_makes_it_cheaper(plm, model_folder, photo):
    cheaper = ("--max-tokens", 3, "--keep-tokens", 1, "--transform", "tome:r=1")
    result = plm(
        "ask", photo, "what?", "--model", model_folder, *cheaper, "--dtype", "bf16", "--max-new-tokens", 2, "--json"
    )
    told = json.loads(result.out)
    assert told["model"] == str(model_folder)
    assert told["tokens"]["visual"] == told["chunks"] <= 3
    assert told["tokens"]["new"] <= 2
    assert set(told) == {"model", "answer", "in_seconds", "spans", "chunks", "tokens", "finished"}


def test_the_options_of_loading(loaded, plm, photo):
    plm("ask", photo, "what?", "--max-new-tokens", 1)
    plm("ask", photo, "what?", "--model", "x", "--keep-tokens", 4, "--transform", "a:b=1", "--dtype", "bf16")
    assert [call["source"] for call in loaded] == ["plm_micro_shapes", "x"]
    assert loaded[0].items() >= {"dtype": None, "keep_tokens": None, "max_tokens": None, "transform": []}.items()
    assert loaded[1].items() >= {"dtype": "bf16", "keep_tokens": 4, "transform": ["a:b=1"]}.items()


def test_the_micro_model_says_what_it_is(loaded, plm, photo):
    assert "only knows the world of shapes" in plm("ask", photo, "what?", "--max-new-tokens", 1).err
    assert "world" not in plm("ask", photo, "what?", "--max-new-tokens", 1, "--model", "plm_1b").err


def test_a_part_of_a_video_is_told_in_seconds(plm, loaded, clip, assistant, monkeypatch):
    monkeypatch.setattr(assistant.processor, "decode", lambda ids: "in [1,3]: a star")
    words = ("ask", clip, "where?", "--start", 1, "--end", 3, "--box", "1,2,30,20")
    told = json.loads(plm(*words, "--json").out)
    (span,) = told["spans"]
    assert span.items() >= {"first": 1, "last": 3}.items()
    assert 1 < span["start"] < span["end"] <= 3.05
    assert told["answer"] == "in [1,3]: a star"
    assert told["in_seconds"] == f"in [{span['start']:.2f} s, {span['end']:.2f} s]: a star"
    assert plm(*words).out == f"{told['in_seconds']}\n"


def test_a_terminal_sees_the_answer_as_it_comes(loaded, plm, photo, assistant, monkeypatch):
    pieces = []
    monkeypatch.setattr("plm_core.cli.ask.show_piece", pieces.append)
    monkeypatch.setattr(sys, "stdout", Terminal())
    plm("ask", photo, "is it red?", "--max-new-tokens", 8)
    assert len(pieces) > 1
    answer = assistant.ask("is it red?", [photo], max_new_tokens=8)
    assert "".join("".join(pieces).split()) == "".join(answer.text.split())
    assert sys.stdout.getvalue() == "\n", "nothing is printed twice"
    pieces.clear()
    plm("ask", photo, "is it red?", "--max-new-tokens", 8, "--beams", 2)
    assert pieces == [], "beams cannot be streamed"
    assert sys.stdout.getvalue().strip()


def test_a_seed_repeats_an_answer_that_is_drawn(loaded, plm, photo):
    def drawn(seed):
        return plm("ask", photo, "what?", "--temperature", 3, "--top-p", 0.99, "--seed", seed).out

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_how_an_answer_is_generated():
    assert asking.generation() == {}
    assert asking.generation(7, temperature=0) == {"max_new_tokens": 7}
    assert asking.generation(temperature=0.5) == {"do_sample": True, "temperature": 0.5, "top_k": 0}
    assert asking.generation(top_p=0.5) == {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 0.5}
    assert asking.generation(temperature=0, top_p=0.5) == {}
    assert asking.generation(beams=3) == {"num_beams": 3}


def test_what_a_model_says_does_not_steer_the_terminal():
    assert notes.printable("a\x1b[2J\nb") == "a\\x1b[2J\nb"


# --- questions as prompts -----------------------------------------------------------------------------------------


def test_boxes_of_an_image_have_marks(photo):
    boxes = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert asking.question("what?", [photo], boxes=boxes) == Prompt(
        text="<|bbox0|> <|bbox1|> what?", media=[photo], boxes=boxes
    )
    assert asking.question("is <|bbox0|> red?", [photo], boxes=boxes[:1]).text == "is <|bbox0|> red?"
    assert asking.question("what?", [photo]).text == "what?"


def test_a_box_and_a_range_of_a_video(clip, photo):
    prompt = asking.question("what?", [clip], start=1, end=2, boxes=[[1, 2, 3, 4]])
    assert prompt.media == [VideoClip(source=clip, start=1, end=2, box=[1, 2, 3, 4])]
    assert prompt.text == "what?"
    with_photo = asking.question("what?", [photo, clip], end=2)
    assert with_photo.media == [photo, VideoClip(source=clip, end=2)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photo.png", "nothing.jpg", "what?"], "'nothing.jpg' is no file"),
        (["photo.png", "what?", "--start", "1"], "start and end are seconds of one video; there are 0 videos"),
        (["photo.png", "photo.png", "what?", "--box", "1,2,3,4"], "boxes are regions of one image"),
        (["clip.mp4", "what?", "--box", "1,2,3,4", "--box", "1,2,3,4"], "there are 2 boxes for 1 images and videos"),
        (["photo.png", "what?", "--box", "1,2,3"], "x0, y0, x1, y1 in pixels are"),
        (["photo.png", "what?", "--box", "9,2,3,4"], "with x0 < x1 and y0 < y1"),
        (["photo.png", "what?", "--box", "a,2,3,4"], "--box 'a,2,3,4' is not allowed"),
        (["photo.png", "what in <|bbox3|>?", "--box", "1,2,3,4"], "names box 3, but there are 1 boxes"),
        (["broken.png", "what?"], "broken.png"),
        (["clip.mp4", "what?", "--start", "9"], "start 9 lies outside"),
        (["photo.png", "<image> or <image>?"], "has 2 <image> or <video> for 1 images or videos"),
        (["photo.png", "what? " * 60], "the model takes 100"),
        ([], "one question is expected"),
        (["clip.mp4", "photo.png"], "the question is missing: the last word, 'photo.png', is a file"),
        (["what?", "--questions", "rows.jsonl"], "one question is expected"),
        (["--questions", "rows.jsonl"], "--questions and --out belong together"),
        (["what?", "--out", "rows.jsonl"], "--questions and --out belong together"),
        (["--questions", "a", "--out", "b", "--start", "1"], "each row of --questions has its own"),
    ],
)
def test_what_is_not_allowed_is_one_line(plm, loaded, photo, clip, monkeypatch, words, said):
    (clip.parent / "photo.png").write_bytes(photo.read_bytes())
    (clip.parent / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    monkeypatch.chdir(clip.parent)
    result = plm("ask", *words)
    assert (result.code, result.out) == (2, "")
    error = result.err.splitlines()[-1]
    assert error.startswith("plm: error: ")
    assert said in error
    assert "Traceback" not in result.err


def test_models_that_are_not_there(plm, photo, hub_double, model_folder):
    hub_double.add("org/gated", {"config.json": model_folder / "config.json"}, gated=True)
    for model, said in (("plm_b1", "did you mean"), ("org/gated", "access is gated"), (photo.parent, "no tokenizer")):
        result = plm("ask", photo, "what?", "--model", model)
        assert result.code == 2
        assert result.err.startswith("plm: error: ")
        assert result.err.count("\n") == 1
        assert said in result.err
    assert plm("ask", photo, "what?", "--model", model_folder, "--dtype", "int8").err == (
        "plm: error: dtype 'int8' is not allowed: 'fp32' and 'bf16' are\n"
    )


# --- many questions -----------------------------------------------------------------------------------------------

ROWS = (
    {"media": ["photo.png"], "question": "what is it?", "id": 7},
    {"question": "is it red?"},
    {"media": ["photo.png", "photo.png"], "question": "is it a star?"},
    {"media": ["photo.png"], "question": "what?", "boxes": [[1, 2, 30, 20]]},
    {"media": ["clip.mp4"], "question": "what?", "start": 1},
)


@pytest.fixture
def rows(clip, photo):
    """A function that writes a file of questions, beside the photo and the clip."""
    (clip.parent / "photo.png").write_bytes(photo.read_bytes())

    def write(*lines):
        file = clip.parent / "rows.jsonl"
        file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
        return file

    return write


def answers(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def run(plm, source, out, *words):
    return plm("ask", "--questions", source, "--out", out, "--batch-size", 2, "--max-new-tokens", 3, *words)


def test_a_file_of_questions(plm, loaded, assistant, rows, tmp_path):
    source, out = rows(*ROWS), tmp_path / "made" / "answers.jsonl"
    result = run(plm, source, out)
    assert (result.code, result.err) == (
        0,
        f"model: plm_micro_shapes, a micro model, which only knows the world of shapes\nwrote {out.resolve()}\n",
    )
    told = answers(out)
    assert [row["line"] for row in told] == [1, 2, 3, 4, 5]
    assert [row["row"] for row in told] == list(ROWS)
    alone = assistant.ask("is it red?", max_new_tokens=3)
    assert told[1]["answer"] == alone.text
    assert told[1]["model"] == "plm_micro_shapes"
    header, values = (line.split("\t") for line in result.out.splitlines())
    report = dict(zip(header, map(int, values), strict=True))
    assert report["answered"] == 5
    assert report["visual_tokens"] == sum(row["tokens"]["visual"] for row in told)
    assert report["prompt_tokens"] == sum(row["tokens"]["prompt"] for row in told)


def test_bad_rows_are_named_and_tried_again(plm, loaded, rows, tmp_path):
    missing = {"media": ["late.png"], "question": "what?"}
    bad = ["no json\n", "\n", {"media": "photo.png", "question": "what?"}, {"media": []}, {"question": "<image>?"}]
    bad += [{"question": "a", "media": ["photo.png"], "boxes": 3}, {"question": "a", "start": "x"}, [1]]
    bad += [{"question": "a", "media": ["x" * 300]}, {"question": "a", "media": ["photo.png", "\0"]}]
    source, out = rows(ROWS[0], missing, *bad, ROWS[1]), tmp_path / "answers.jsonl"
    result = run(plm, source, out)
    assert result.code == 2
    assert [row["line"] for row in answers(out)] == [1, 13]
    errors = [line for line in result.err.splitlines() if "plm: error" in line]
    named = sorted(int(line.partition(", line ")[2].partition(":")[0]) for line in errors[:-1])
    assert named == [2, 3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert errors[-1] == "plm: error: 10 of 12 questions could not be answered"
    (tmp_path / "late.png").write_bytes((tmp_path / "photo.png").read_bytes())
    assert run(plm, source, out).code == 2
    assert [row["line"] for row in answers(out)] == [1, 13, 2]


def test_a_run_goes_on_where_it_was_stopped(plm, loaded, assistant, rows, tmp_path, monkeypatch):
    source, out = rows(*ROWS), tmp_path / "answers.jsonl"
    whole = tmp_path / "whole.jsonl"
    run(plm, source, whole)
    answered = type(assistant).answers

    def stop(self, prompts, **options):
        if out.exists() and len(answers(out)) >= 2:
            raise KeyboardInterrupt
        return answered(self, prompts, **options)

    monkeypatch.setattr(type(assistant), "answers", stop)
    result = run(plm, source, out)
    assert result.code == 130
    assert "the same command goes on from there" in result.err
    monkeypatch.undo()
    monkeypatch.setattr(asking, "load_assistant", lambda source, **options: assistant)
    assert [row["line"] for row in answers(out)] == [1, 2]
    out.write_text(out.read_text() + '{"line": 3, "row"')  # a killed process leaves half a line
    result = run(plm, source, out, "--json")
    assert json.loads(result.out).items() >= {"answered": 3, "kept": 2}.items()
    assert out.read_text() == whole.read_text()


def test_answers_of_another_run_stay_as_they_are(plm, loaded, rows, tmp_path):
    source, out = rows(*ROWS[:2]), tmp_path / "answers.jsonl"
    run(plm, source, out)
    before = out.read_bytes()
    for words, said in (
        (("--model", "other"), "model is 'plm_micro_shapes' there, and 'other' now"),
        (("--keep-tokens", 1), "options is"),
    ):
        result = run(plm, source, out, *words)
        assert result.code == 2
        assert said in result.err
    rows(ROWS[1], ROWS[0])
    assert "its answer to line 1 is one to another question" in run(plm, source, out).err
    assert out.read_bytes() == before
    out.write_text("mine\n")
    assert "it is no file of answers" in run(plm, source, out).err
    assert out.read_text() == "mine\n"


def test_files_that_cannot_be_read_or_written(plm, loaded, rows, tmp_path):
    source = rows(*ROWS[:1])
    assert "has no rows" in run(plm, rows("\n"), tmp_path / "out.jsonl").err
    assert "cannot be read" in run(plm, tmp_path / "none.jsonl", tmp_path / "out.jsonl").err
    rows(*ROWS[:1])
    (tmp_path / "file").touch()
    result = run(plm, source, tmp_path / "file" / "out.jsonl")
    assert result.code == 2
    assert "cannot write to the folder" in result.err


# --- conversations ------------------------------------------------------------------------------------------------


@pytest.fixture
def chat(plm, loaded, monkeypatch):
    """A function that has a conversation by the lines of a pipe."""

    def talk(*lines, words=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return plm("chat", *words, "--max-new-tokens", 3)

    return talk


def test_a_conversation_from_a_pipe(chat, assistant, photo):
    from plm_core.lm import Chat

    own = Chat(assistant)
    told = [own.say("what is it?", [photo], max_new_tokens=3), own.say("is it red?", max_new_tokens=3)]
    fresh = Chat(assistant).say("is it red?", max_new_tokens=3)
    result = chat(f"/image {photo}", "what is it?", "", "is it red?", "/reset", "is it red?", "/quit", "what?")
    assert result.code == 0
    assert result.out.splitlines() == [told[0].text, told[1].text, fresh.text]
    assert chat("what is it?", words=[photo]).out == f"{told[0].text}\n"


def test_a_conversation_about_a_video(chat, assistant, clip):
    odd = clip.rename(clip.with_suffix(".dat"))
    expected = assistant.ask("what is it?", [VideoClip(source=odd)], max_new_tokens=3)
    assert chat(f"/video {odd}", "what is it?").out == f"{expected.in_seconds}\n"


def test_a_conversation_survives_its_faults(chat, assistant, clip, photo):
    broken = clip.parent / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n no")
    lines = [
        "/frob",
        "/image nothing.jpg",
        f"/image {'x' * 300}",
        f"/image {clip}",
        f"/image {broken}",
        "what?",
        "what is it?",
    ]
    result = chat(*lines)
    assert result.code == 2
    assert result.out == f"{assistant.ask('what is it?', max_new_tokens=3).text}\n"
    errors = [line for line in result.err.splitlines() if line.startswith("plm: error: ")]
    expected = (
        "there is no /frob; /image",
        "'nothing.jpg' is no file",
        "x' is no file",
        "is a video; /video shows it",
        "broken.png",
    )
    assert len(errors) == len(expected)
    for error, said in zip(errors, expected, strict=True):
        assert said in error
    assert "/reset" in chat("/help").err


def test_a_conversation_on_a_terminal(chat, loaded, plm, monkeypatch, assistant):
    lines = iter(["what is it?", "/quit"])
    monkeypatch.setattr("rich.console.Console.input", lambda self, prompt: next(lines))
    monkeypatch.setattr(sys, "stdin", Terminal())
    result = plm("chat", "--max-new-tokens", 3)
    assert result.code == 0
    assert result.out == f"{assistant.ask('what is it?', max_new_tokens=3).text}\n"
    assert "/help shows the commands" in result.err


def test_files_of_a_conversation_are_checked_first(plm, loaded):
    result = plm("chat", "nothing.jpg")
    assert (result.code, result.err) == (2, "plm: error: 'nothing.jpg' is no file\n")
    assert loaded == []


def test_dtypes_are_checked():
    asking.check_dtype(None)
    with pytest.raises(InputError, match="'fp32' and 'bf16' are"):
        asking.check_dtype("fp16")
