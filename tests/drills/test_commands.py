"""Wrong words on the command line: one line and a code, never a traceback."""

import random

import pytest

COMMANDS = (
    "list",
    "info",
    "predict",
    "rank",
    "probe",
    "train",
    "bench",
    "matrix",
    "convert",
    "push",
    "scores",
    "gaze",
    "x",
)
WORDS = (
    "--json", "--out", "--models", "", "-1", "nan", "a" * 300, "..", "/dev/null", "\x1b[31mred", "local-dir:",
    "hf-hub:", "hf-hub:a/b/c", "local-dir:/", "--no-such", "finetune", "hiera_micro_digits", "--r=1e9", "[1", "é\u0301",
)  # fmt: skip


@pytest.mark.trials(short=30, long=1500)
def test_wrong_words(plm, drill, trials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chance = random.Random(0)
    for number in range(trials):
        words = [chance.choice(COMMANDS), *chance.choices(WORDS, k=chance.randint(0, 3))]
        if words[0] == "matrix":  # which takes no words, and half a minute if there are none
            words.append(chance.choice(["x", "--no-such", "--json=1"]))
        drill.command(f"{number}: {words}", plm(*words))
