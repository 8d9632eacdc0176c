"""The curve of a training as a table and as a picture."""

import csv
import io
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from plm_core import InputError
from plm_core.training.curve import figure, write_curve


def history(entries=10, every=5, **values):
    """Return entries with a loss and other values. Those with % in their names are only at the ends of epochs."""
    rows = []
    for step in range(1, entries + 1):
        row = {"step": step, "epoch": step / every, "loss": 1 / step, "learning_rate": 1e-3 * (1 - step / entries)}
        rows.append(
            row | {name: value + step for name, value in values.items() if "%" not in name or step % every == 0}
        )
    return rows


def test_the_table_has_every_value_in_one_row_per_entry(tmp_path):
    entries = history(entropy=1.5, **{"val top-1 %": 50.0})
    written = write_curve(entries, tmp_path / "run", title="a training")
    assert [path.name for path in written] == ["curve.csv", "curve.png"]
    with open(tmp_path / "run" / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "loss", "learning_rate", "entropy", "val top-1 %"]
    assert [{name: float(value) for name, value in row.items() if value} for row in rows] == entries
    with Image.open(tmp_path / "run" / "curve.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("L").getcolors()) > 20


def test_the_picture_shows_the_loss_the_learning_rate_and_the_scores():
    entries = history(entropy=1.5, **{"val top-1 %": 50.0})
    drawn = figure(entries, "a training")
    loss, parts, scores, rates = drawn.axes
    assert drawn.get_suptitle() == "a training"
    steps = [entry["step"] for entry in entries]
    for axis, name in ((loss, "loss"), (rates, "learning_rate"), (parts, "entropy")):
        (line,) = axis.get_lines()
        np.testing.assert_array_equal(
            line.get_xydata(), [[step, e[name]] for step, e in zip(steps, entries, strict=True)]
        )
    (line,) = scores.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[5, 55], [10, 60]])
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["val top-1 %  60"]
    assert (loss.get_ylabel(), rates.get_ylabel(), scores.get_ylabel()) == ("loss", "learning rate", "%")
    above = loss.child_axes[0]
    drawn.savefig(io.BytesIO())
    assert above.get_xlabel() == "epoch"
    assert above.get_xlim() == pytest.approx((0, 2 * 1.02))


def test_a_long_loss_is_also_drawn_smoothly():
    entries = history(300)
    entries[150]["loss"] = 10.0
    raw, smooth = figure(entries).axes[0].get_lines()
    assert raw.get_ydata()[150] == 10
    width = 10
    assert smooth.get_ydata()[150] == pytest.approx(raw.get_ydata()[150 - width // 2 : 151 + width // 2].mean())


@pytest.mark.parametrize("entries", [1, 2])
def test_a_short_training_can_be_drawn(tmp_path, entries):
    assert len(write_curve(history(entries), tmp_path)) == 2


def test_without_matplotlib_the_table_is_written_and_one_line_says_what_is_missing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert write_curve(history(), tmp_path) == [tmp_path / "curve.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{tmp_path / 'curve.png'} is not drawn: the picture of a training needs matplotlib: install plm-core[train]"
    )


def test_an_empty_history_is_refused(tmp_path):
    with pytest.raises(InputError, match="history is empty"):
        write_curve([], tmp_path)
    assert not list(tmp_path.iterdir())
