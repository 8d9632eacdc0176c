"""The progress of a training on stderr: a bar on a terminal, and elsewhere a line per epoch."""

import io
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from plm_core.training import Recipe, fit
from plm_core.training.display import clock, display, short
from plm_core.training.pace import Pace
from plm_core.utils import progress
from plm_core.utils.progress import interactive, new_bars, showing, track

RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1)
LINE = re.compile(
    r"epoch (?P<epoch>\S+)/(?P<epochs>\S+)  loss (?P<loss>\S+)  lr (?P<lr>\S+)  (?P<rate>[\d.,e+]+) samples/s"
    r"(  val % (?P<score>\S+))?  (?P<left>(ETA|took) \d:\d\d:\d\d)"
)


def evaluate(model):
    for _ in track(range(3), "scoring"):
        pass
    return {"val %": 100 * model.weight.abs().mean()}


def trained(recipe=RECIPE, **options):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.arange(32) % 3)
    return fit(
        nn.Linear(4, 3), data, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), recipe, **options
    )


@pytest.fixture
def shown(monkeypatch):
    """Return a function that trains with a console in the place of stderr and returns the result and what it showed."""

    def run(console, recipe=RECIPE, **options):
        monkeypatch.setattr("plm_core.training.display.display", partial(display, console=console))
        return trained(recipe, **options), console.file.getvalue()

    return run


def file():
    return Console(file=io.StringIO(), width=40)  # a line is not wrapped


def terminal(width=80):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, _environ={})


# --- lines -----------------------------------------------------------------------------------------------------


def test_a_line_per_epoch_has_the_values_of_the_history(shown):
    result, text = shown(file(), evaluate=evaluate)
    lines = [LINE.fullmatch(line) for line in text.splitlines()]
    assert len(lines) == len(result.history) == 4
    for line, entry in zip(lines, result.history, strict=True):
        assert (line["epoch"], line["epochs"]) == (f"{entry['epoch']:g}", "4")
        assert line["loss"] == f"{entry['loss']:.4g}"
        assert line["score"] == f"{entry['val %']:.4g}"
        assert float(line["lr"]) == pytest.approx(entry["learning_rate"], rel=0.05)
    assert [line["left"].split()[0] for line in lines] == ["ETA", "ETA", "ETA", "took"]


@pytest.mark.parametrize(
    ("recipe", "options", "epochs", "scored"),
    [
        (Recipe(epochs=2.5, batch_size=8, lr=1e-2), {}, ["1", "2", "2.5"], [True] * 3),
        (Recipe(epochs=4, batch_size=8, lr=1e-2, aug_repeats=2), {}, ["1", "2", "3", "4"], [True] * 4),
        (RECIPE, {"max_steps": 6}, ["1", "1.5"], [True] * 2),
        (RECIPE, {"evaluate_every": 2}, ["1", "2", "3", "4"], [False, True] * 2),
        (RECIPE, {"per_device_batch_size": 4, "log_steps": 1}, ["1", "2", "3", "4"], [True] * 4),
    ],
)
def test_an_epoch_is_one_of_the_recipe(shown, recipe, options, epochs, scored):
    _, text = shown(file(), recipe, evaluate=evaluate, **options)
    lines = [LINE.fullmatch(line) for line in text.splitlines()]
    assert [line["epoch"] for line in lines] == epochs
    assert [line["score"] is not None for line in lines] == scored
    assert [line["left"][:4] == "took" for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_resumed_training_goes_on_with_its_lines(shown, tmp_path):
    shown(file(), out=tmp_path, max_steps=6)
    _, text = shown(file(), out=tmp_path, resume=True)
    assert [LINE.fullmatch(line)["epoch"] for line in text.splitlines()] == ["2", "3", "4"]


# --- a bar -----------------------------------------------------------------------------------------------------


def screens(text):
    """Return what was on the terminal each time that the bar was drawn."""
    return [re.sub(r"\x1b\[[\d;?]*\w|\r", "", screen) for screen in re.split(r"\x1b\[1A\x1b\[2K(?!\x1b\[1A)", text)]


def test_a_terminal_shows_a_bar_with_the_values(shown, monkeypatch):
    monkeypatch.setattr(progress, "REFRESH", 0)
    result, text = shown(terminal(), evaluate=evaluate)
    *_, last = screens(text)
    bar, values = last.splitlines()
    assert re.fullmatch(r"epoch 4/4 ━+ 16/16 took \d:\d\d:\d\d", bar)
    assert len(bar) == 80
    entry = result.history[-1]
    assert values.startswith(f"loss {entry['loss']:.4g}  lr {short(entry['learning_rate'])}  ")
    assert values.endswith(f" samples/s  val % {entry['val %']:.4g}")
    during = [screen for screen in screens(text) if "scoring" in screen]
    assert re.match(r"epoch 1/4 ━+ +4/16 +\nscoring +0/3 .*\nevaluating  loss ", during[0])
    assert re.search(r"scoring +━+ 3/3 ", during[-1])


def test_the_last_values_stay_on_the_screen(shown):
    result, text = shown(terminal())
    assert f"loss {result.history[-1]['loss']:.4g}  lr " in screens(text)[-1]


def test_a_narrow_terminal_cuts_the_values_instead_of_wrapping_them(shown):
    _, text = shown(terminal(width=40), evaluate=lambda model: {"a score with a long name": 1.0})
    bar, values = screens(text)[-1].splitlines()
    assert len(bar) == len(values) == 40
    assert values.endswith("…")


def test_bars_are_closed_when_a_training_fails(shown):
    console = terminal()
    with pytest.raises(ZeroDivisionError):
        shown(console, evaluate=lambda model: 1 / 0)
    assert console.file.getvalue().endswith("\x1b[?25h")  # the cursor is back
    console.file.truncate(0)
    assert list(track([1], "outside")) == [1]
    assert console.file.getvalue() == ""


# --- where -----------------------------------------------------------------------------------------------------


def test_fit_shows_lines_or_a_bar_on_stderr_or_nothing(capsys, monkeypatch):
    trained()
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 4
    assert all(map(LINE.fullmatch, err.splitlines()))
    trained(show=False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("plm_core.training.display.interactive", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    trained()
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"epoch 4/4 .*16/16", err)
    monkeypatch.setenv("TERM", "dumb")  # which cannot move its cursor
    trained()
    assert all(map(LINE.fullmatch, capsys.readouterr().err.splitlines()))


def test_other_processes_than_the_main_one_show_nothing(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert interactive()
    monkeypatch.setenv("RANK", "1")
    assert not interactive()
    monkeypatch.delenv("RANK")
    from plm_core.training.trainer import RecipeTrainer

    monkeypatch.setattr(RecipeTrainer, "is_world_process_zero", lambda self: False)
    trained()
    assert capsys.readouterr() == ("", "")


def test_track_joins_the_bars_that_are_shown(monkeypatch):
    from rich.progress import Progress

    bars = Progress(console=terminal(), auto_refresh=False)
    with showing(bars):
        for _ in track(iter([1, 2]), "some"):
            assert [task.description for task in bars.tasks] == ["some"]
        assert not bars.tasks


# --- numbers ---------------------------------------------------------------------------------------------------


def test_the_pace_leaves_out_the_first_step_and_what_is_not_training():
    now = [0.0]
    pace = Pace(batch_size=10, clock=lambda: now[0])
    assert (pace.rate(), pace.left(5)) == (None, None)
    now[0] = 8
    pace.step()
    assert (pace.rate(), pace.left(5)) == (10 / 8, 40)
    now[0] = 10
    pace.step()
    assert (pace.rate(), pace.left(5)) == (5, 10)
    now[0] = 30  # an evaluation counts for the time that is left, but not for the rate
    pace.skip()
    now[0] = 32
    pace.step()
    assert pace.rate() == 5
    assert pace.left(5) == 5 * 24 / 2
    assert pace.elapsed() == 32


def test_the_time_that_is_left_follows_the_last_steps():
    now = [0.0]
    pace = Pace(batch_size=10, clock=lambda: now[0])
    for seconds in [8.0] * 50 + [1.0] * 50:  # something else kept the machine busy at first
        now[0] += seconds
        pace.step()
    assert (pace.rate(), pace.left(100)) == (10, 100)


def test_bars_know_the_time_that_is_left_from_slow_batches_and_follow_the_last_ones():
    now = [0.0]
    bars = new_bars()
    bars.get_time = lambda: now[0]
    bars.add_task("images", total=100)
    (task,) = bars.tasks

    def advance(seconds):
        now[0] += seconds
        bars.advance(task.id)
        return task.time_remaining

    assert [advance(50), advance(40)] == [None, 98 * 40]
    for _ in range(87):
        advance(1)
    assert [advance(20) for _ in range(10)][-1] == 20  # nothing of the batches that took a second


@pytest.mark.parametrize(
    ("rate", "text"), [(0.00075, "7.5e-4"), (1e-3, "1e-3"), (0.02, "0.02"), (1.0, "1"), (0.0, "0"), (9.99e-4, "1e-3")]
)
def test_learning_rates_are_short(rate, text):
    assert short(rate) == text


def test_durations():
    assert [clock(190.4), clock(0.2), clock(90000)] == ["0:03:10", "0:00:00", "1 day, 1:00:00"]
