"""What models and judges are asked, in our words and in those of lmms-eval, of which a double is installed."""

import sys

import pytest

from plm_core.errors import InputError, MissingDependency, NotSupported
from plm_core.videobench.prompts import LmmsEvalPrompts, PlainPrompts, load_prompts

ROW = {
    "question": "Which hand?",
    "answer": "left",
    "options": {"option_0": "left", "option_1": "right"},
    "caption": "waves",
    "total_frames": 96,
    "start_frame": 30,
    "end_frame": 60,
}

UTILS = {
    "eval_utils.py": """
def get_caption_judge_prompt(gt, pred):
    return [{"role": "user", "content": f"{gt}|{pred}"}]
def get_sgqa_judge_prompt(question, pred, target):
    return [{"role": "user", "content": f"{question}|{pred}|{target}"}]
""",
    "fgqa/fgqa_utils.py": """
def plm_fgqa_doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return lmms_eval_specific_kwargs["prompt"].format(question=doc["question"], answer="{answer}")
""",
}
TEMPLATES = {
    "fgqa": "F {question}{answer}",
    "sgqa": "S {question}{answer}",
    "rcap": "C {start_frame} {end_frame} {total_frames}",
    "rtloc": "L {caption} {min_frame_idx} {max_frame_idx} {num_frames}",
    "rdcap": "D {start_frame} {end_frame} {total_frames}",
}


@pytest.fixture
def lmms_eval(tmp_path, monkeypatch):
    """Install a package with the files and functions of lmms-eval that hold the prompts."""
    folder = tmp_path / "lmms_eval" / "tasks" / "plm_videobench"
    for name, text in UTILS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for task, template in TEMPLATES.items():
        (folder / task).mkdir(exist_ok=True)
        settings = f"lmms_eval_specific_kwargs:\n  default:\n    prompt: {template!r}\n"
        (folder / task / f"{task}_test.yaml").write_text(f"doc_to_text: !function {task}_utils.f\n{settings}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        del sys.modules[name]


def test_the_literal_words_are_read_from_lmms_eval(lmms_eval):
    prompts = load_prompts("lmms-eval")
    asked = {task: prompts.question(task, ROW, 32) for task in TEMPLATES}
    assert asked == {
        "fgqa": "F Which hand?{answer}",
        "sgqa": "S Which hand?{answer}",
        "rcap": "C 10 20 96",
        "rtloc": "L waves 0 31 32",
        "rdcap": "D 0 31 32",
    }
    assert prompts.judge_caption("r", "p") == [{"role": "user", "content": "r|p"}]
    assert prompts.judge_answer("q", "a", "p")[0]["content"] == "q|p|a"


def test_an_lmms_eval_that_lacks_something_is_one_line(lmms_eval, one_line):
    prompts = LmmsEvalPrompts()
    (lmms_eval / "sgqa" / "sgqa_test.yaml").write_text("a: [")
    with one_line(NotSupported, "lmms-eval has no prompt in", "use prompts 'plain'"):
        prompts.question("sgqa", ROW, 32)
    (lmms_eval / "rcap" / "rcap_test.yaml").unlink()
    with one_line(NotSupported, "rcap_test.yaml"):
        prompts.question("rcap", ROW, 32)
    (lmms_eval / "eval_utils.py").write_text("import a_module_that_is_not_there")
    with one_line(MissingDependency, "a_module_that_is_not_there"):
        prompts.judge_caption("r", "p")
    (lmms_eval / "fgqa" / "fgqa_utils.py").write_text("")
    with one_line(NotSupported, "has no fgqa.fgqa_utils.plm_fgqa_doc_to_text"):
        prompts.question("fgqa", ROW, 32)


def test_without_lmms_eval_there_are_the_plain_prompts(monkeypatch, one_line):
    monkeypatch.setattr("plm_core.videobench.prompts.util.find_spec", lambda name: None)
    with one_line(MissingDependency, "read from the package lmms-eval, which is not installed"):
        load_prompts("lmms-eval")
    with one_line(InputError, "prompts 'paper' is not allowed: 'plain', 'lmms-eval' and 'shapes' are"):
        load_prompts("paper")
    assert load_prompts("plain").name == "plain"


def test_plain_prompts_say_what_the_parsers_and_the_judge_need():
    prompts = PlainPrompts()
    assert prompts.question("fgqa", ROW, 32).startswith("Question: Which hand?\nOptions:\n(A) left\n(B) right\n")
    assert "from frame 10 to frame 20" in prompts.question("rcap", ROW, 32)
    assert "from 0 to 31" in prompts.question("rtloc", ROW, 32)
    assert "waves" in prompts.question("rtloc", ROW, 32)
    assert "[start, end]: description" in prompts.question("rdcap", ROW, 8)
    assert "from 0 to 7" in prompts.question("rdcap", ROW, 8)
    assert prompts.question("sgqa", ROW, 32).startswith("Which hand?\n")
    assert '"pred"' in prompts.judge_answer("q", "a", "p")[1]["content"]
    assert '"score"' in prompts.judge_caption("r", "p")[1]["content"]
