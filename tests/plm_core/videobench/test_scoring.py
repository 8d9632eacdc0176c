"""The scores of predictions: values and intervals, judges that fail, bad files, and the command."""

import json

import numpy as np
import pytest
import typer

from plm_core.cli import videobench as command
from plm_core.errors import InputError
from plm_core.videobench import RunSettings, StringJudge, metrics, run, score
from plm_core.videobench.judge import JudgeError
from plm_core.videobench.scoring import bootstrap


class Failing:
    """A judge that replies by a function of the number of the question."""

    name = "failing"
    parallel = 1

    def __init__(self, reply):
        self.asked = []
        self._reply = reply

    def reply(self, case):
        self.asked.append(case)
        return self._reply(len(self.asked))


def no_reply(number):
    raise JudgeError("no answer in 5 s")


@pytest.fixture
def answers(data, model, tmp_path):
    """Return a folder with the answers of `model` to all rows."""
    run(model, data, tmp_path / "answers")
    return tmp_path / "answers"


def test_scores_are_those_of_the_metrics(data, answers, model):
    scores = score(answers, data)
    values = {name: task.score for name, task in scores.tasks.items()}
    assert list(values) == ["fgqa", "sgqa", "rdcap", "rcap", "rtloc"]
    assert (values["fgqa"], values["sgqa"], values["rcap"]) == (
        50,
        100,
        87.5,
    )  # three of the four words "walks to door 1"
    targets = [(0, 16), (16, 31)]
    overlap = metrics.overlaps(targets, targets)
    assert values["rdcap"] == pytest.approx(100 * (overlap[0, 0] + overlap[1, 1]) / 2)
    assert values["rtloc"] == 100
    assert scores.total[0] == pytest.approx(metrics.total(values))
    assert scores.tasks["fgqa"].questions == 2
    assert (scores.unjudged, scores.tasks["fgqa"].judge) == (0, None)
    written = json.loads((answers / "scores.json").read_text())
    assert written == json.loads(json.dumps(scores.as_dict()))
    assert written["run"]["model"] == "fixed"
    assert all(written["tasks"][name]["judge"] == StringJudge.name for name in ("sgqa", "rcap", "rdcap"))
    replies = [
        json.loads(line)
        for line in (answers / "replies" / "string-comparison-no-language-model" / "rdcap.jsonl")
        .read_text()
        .splitlines()
    ]
    assert replies[0]["judge"] == StringJudge.name
    assert len(replies[0]["replies"]) == 4


def test_intervals_hold_the_score_and_shrink_with_the_rows(data, answers):
    scores = score(answers, data)
    assert all(task.low <= task.score + 1e-9 and task.score <= task.high + 1e-9 for task in scores.tasks.values())
    assert scores.total[1] <= scores.total[0] <= scores.total[2]
    assert (scores.tasks["fgqa"].low, scores.tasks["fgqa"].high) == (0, 100)
    values = np.random.default_rng(0).random(400)
    means = bootstrap(values, 2000, np.random.default_rng(1))
    assert means.shape == (2000,)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.1)
    assert score(answers, data).total == scores.total


def test_any_models_file_is_scored(data, tmp_path, write_rows):
    rows = [{"uid": i, "prediction": text} for i, text in enumerate(("[8, 16]", "nowhere"))]
    file = write_rows(tmp_path / "theirs" / "rtloc.jsonl", rows)
    scores = score(file, data)
    assert (scores.tasks["rtloc"].score, scores.tasks["rtloc"].understood) == (50, 0.5)
    assert scores.total is None
    assert score(file.parent, data, out=tmp_path / "scores").tasks["rtloc"].score == 50
    assert (tmp_path / "scores" / "scores.json").exists()


def test_frames_and_split_are_those_of_the_run(data, model, tmp_path):
    model.answers["rtloc"] = "[2, 4]"
    run(model, data, tmp_path / "out", tasks=["rtloc"], settings=RunSettings(frames=8))
    scores = score(tmp_path / "out", data)
    assert (scores.tasks["rtloc"].score, scores.frames) == (100, 8)
    assert score(tmp_path / "out", data, frames=32).tasks["rtloc"].score == 0


# --- bad predictions ----------------------------------------------------------------------------------------------


def test_missing_rows_are_an_error_unless_they_are_allowed(data, tmp_path, write_rows, one_line):
    file = write_rows(
        tmp_path / "theirs" / "rtloc.jsonl", [{"uid": 1, "prediction": "[8, 16]"}, {"uid": 0, "error": "x"}]
    )
    with one_line(InputError, "lacks 1 of 2 rows, such as uid '0'; --partial scores the others"):
        score(file, data)
    task = score(file, data, partial=True).tasks["rtloc"]
    assert (task.score, task.rows, task.missing) == (100, 1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"uid": 5, "prediction": "a"}], "has 1 rows that"),
        ([{"uid": 0, "prediction": 3}], "prediction of uid '0' is no text"),
        ([{"uid": 0, "error": "x"}], "lacks 2 of 2 rows, such as uid '0'"),
        ([{"prediction": "a"}], "line 1:"),
    ],
)
def test_faulty_predictions_are_named(data, tmp_path, write_rows, rows, message, one_line):
    file = write_rows(tmp_path / "theirs" / "rtloc.jsonl", rows)
    with one_line(InputError, message):
        score(file, data, partial=True)


def test_predictions_that_are_not_there(data, answers, one_line):
    with one_line(InputError, "is no folder and no file TASK.jsonl"):
        score(answers / "run.json", data)
    (answers / "fgqa.jsonl").unlink()
    with one_line(InputError, "has no fgqa.jsonl"):
        score(answers, data, tasks=["fgqa"])
    with one_line(InputError, "resamples 0 is not allowed"):
        score(answers, data, resamples=0)


# --- judges that fail ---------------------------------------------------------------------------------------------


def test_nonsense_counts_as_the_protocol_says_and_is_asked_again(data, answers):
    judge = Failing(lambda number: "Yes, I think so" if number % 2 else "hm")
    scores = score(answers, data, judge, tasks=["sgqa", "rcap"])
    assert (scores.tasks["sgqa"].score, scores.tasks["rcap"].score) == (50, 0)
    assert scores.tasks["sgqa"].understood == 0
    assert scores.tasks["sgqa"].failed == dict.fromkeys(("s0", "s1"), "the judge's reply cannot be parsed")
    assert len(judge.asked) == scores.unjudged == 4
    judge._reply = lambda number: '{"pred": "yes", "score": 5}'
    scores = score(answers, data, judge, tasks=["sgqa"])
    assert (len(judge.asked), scores.tasks["sgqa"].score, scores.unjudged) == (6, 100, 0)
    score(answers, data, judge, tasks=["sgqa"])
    assert len(judge.asked) == 6


def test_a_timeout_keeps_the_row_and_only_what_is_missing_is_asked_again(data, answers):
    judge = Failing(lambda number: no_reply(number) if number == 2 else '{"score": 10}')
    task = score(answers, data, judge, tasks=["rdcap"]).tasks["rdcap"]
    assert task.failed == {"0": "no answer in 5 s"}
    assert (task.understood, len(judge.asked)) == (0, 4)
    task = score(answers, data, judge, tasks=["rdcap"]).tasks["rdcap"]
    assert (task.failed, task.understood, len(judge.asked)) == ({}, 1, 5)
    assert judge.asked[4] == judge.asked[1]


def test_replies_to_other_answers_or_by_other_judges_are_not_taken(data, answers, write_rows):
    judge = Failing(lambda number: '{"score": 10}')
    score(answers, data, judge, tasks=["rcap"])
    write_rows(
        answers / "rcap.jsonl", [{"uid": i, "prediction": text} for i, text in enumerate(("new", "walks to door 0"))]
    )
    score(answers, data, judge, tasks=["rcap"])
    assert [case.prediction for case in judge.asked] == ["walks to door 0"] * 2 + ["new"]
    assert score(answers, data, tasks=["rcap"]).tasks["rcap"].score < 100
    score(answers, data, judge, tasks=["rcap"])  # its replies outlive those of the other judge
    assert len(judge.asked) == 3
    judge.name = "failing!"  # which gives the same name of a folder
    score(answers, data, judge, tasks=["rcap"])
    assert len(judge.asked) == 5


def test_a_judge_that_is_not_there_is_not_asked_for_every_row(data, tmp_path, row, write_rows):
    write_rows(
        data / "rcap" / "plm_rcap_test.jsonl",
        [row["subject"](i, caption="c", start_frame=0, end_frame=9) for i in range(40)],
    )
    file = write_rows(tmp_path / "p" / "rcap.jsonl", [{"uid": i, "prediction": "c"} for i in range(40)])
    judge = Failing(no_reply)
    task = score(file, data, judge).tasks["rcap"]
    assert len(judge.asked) < 10
    assert (task.score, len(task.failed)) == (0, 40)
    assert task.failed["39"] == "not asked, since the judge does not answer"
    judge._reply = lambda number: '{"score": 5}'
    assert score(file, data, judge).tasks["rcap"].score == 50


def test_a_refusal_of_the_judge_ends_the_scoring(data, answers):
    def refuse(number):
        raise InputError("the judge answers with status 401")

    with pytest.raises(InputError, match="status 401"):
        score(answers, data, Failing(refuse))


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(capfd):
    """Return a function that runs ``plm videobench WORDS``, and returns the exit code, stdout and stderr."""

    def call(*words):
        try:
            code = typer.main.get_command(command.app).main(list(map(str, words)), "plm", standalone_mode=False)
        except typer.Exit as e:
            code = e.exit_code
        return code or 0, *capfd.readouterr()

    return call


def test_the_command_runs_and_scores(data, model, tmp_path, bench, monkeypatch):
    monkeypatch.setattr(command, "resolve", lambda name: lambda: model, raising=False)
    monkeypatch.setattr("plm_core.videobench.answering.resolve", lambda reference: lambda: model)
    out = tmp_path / "out"
    code, stdout, stderr = bench("run", "m:model", data, "--out", out, "--tasks", "rtloc, fgqa", "--limit", 2)
    assert (code, stdout.splitlines()) == (0, ["task\tanswered\tbefore", "fgqa\t2\t0", "rtloc\t2\t0"])
    code, stdout, stderr = bench("score", out, data, "--tasks", "rtloc")
    assert (code, stdout.splitlines()[1].split("\t")[:2]) == (0, ["RTLoc", "100.0"])
    assert "no total: it is of all five tasks" in stderr
    code, stdout, stderr = bench("run", "m:model", data, "--out", out, "--json")
    assert json.loads(stdout)["tasks"][0] == {"task": "fgqa", "answered": 1, "before": 2}
    code, stdout, stderr = bench("score", out, data, "--json")
    result = json.loads(stdout)
    assert result["tasks"]["rcap"]["judge"] == StringJudge.name
    assert result["total"]["low"] <= result["total"]["score"] <= result["total"]["high"]
    code, stdout, stderr = bench("score", out, data)
    assert stdout.splitlines()[-1].startswith("total\t")


def test_rows_without_an_answer_or_a_verdict_make_the_command_fail(data, model, tmp_path, bench, monkeypatch):
    monkeypatch.setattr("plm_core.videobench.answering.resolve", lambda reference: lambda: model)
    out = tmp_path / "out"
    code, _, stderr = bench("run", "m:model", data, "--out", out, "--videos", tmp_path, "--tasks", "rcap")
    assert code == 2
    assert "plm: error: rcap 0: video 'a.mp4' is not in" in stderr
    assert "plm: error: 2 rows have no answer; the same command tries them again" in stderr
    rcap = data / "rcap" / "plm_rcap_test.jsonl"
    rcap.write_text(rcap.read_text().replace('"uid": 0', '"uid": "0\\u001b[1m"'))
    bench("run", "m:model", data, "--out", tmp_path / "again", "--tasks", "rcap")
    monkeypatch.setattr("plm_core.videobench.StringJudge", lambda: Failing(no_reply))
    code, _, stderr = bench("score", tmp_path / "again", data)
    assert code == 2
    assert r"plm: error: rcap 0\x1b[1m: no answer in 5 s" in stderr
    assert "plm: error: 2 rows are not judged; the same command asks again" in stderr


def test_judges_of_the_command_need_their_options(data, tmp_path, bench, one_line):
    for words, message in (
        (["--judge", "gpt"], "judge 'gpt' is not allowed: 'string', 'endpoint' and 'local' are"),
        (["--judge", "local"], "--judge local needs --judge-model"),
        (["--judge", "endpoint", "--judge-model", "llama"], "--judge endpoint needs --base-url"),
        (["--prompts", "mine", "--judge", "local", "--judge-model", "llama"], "prompts 'mine' is not allowed"),
    ):
        with one_line(InputError, message):
            bench("score", tmp_path, data, *words)


def test_an_interrupted_command_says_how_to_go_on(data, model, tmp_path, bench, monkeypatch):
    monkeypatch.setattr("plm_core.videobench.answering.resolve", lambda reference: lambda: model)

    def interrupt(requests):
        raise KeyboardInterrupt

    model.answer = interrupt
    code, _, stderr = bench("run", "m:model", data, "--out", tmp_path / "out")
    assert code == 130
    assert "the same command goes on from here" in stderr
