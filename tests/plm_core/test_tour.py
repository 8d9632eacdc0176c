"""The tour: its report needs no other file, and a stop that fails does not stop the others."""

import re
import sys

import pytest

from plm_core.errors import MissingDependency
from plm_core.tools import tour
from plm_core.utils.plots import figure

BAD_STOP = """
    from plm_core.hookspecs import TourStop, hookimpl

    @hookimpl
    def plm_tour_stops():
        return [TourStop(name="bad", title="A <bad> stop", run="bad_stop:run", order=1)]

    def run(tour):
        tour.text("so far")
        raise type("Panic", (BaseException,), {})("the stop broke <here>")
"""


def test_report_is_self_contained(tmp_path, monkeypatch):
    monkeypatch.setattr("plm_core.tour.PACKED_MODEL", "test_vit")  # in less time
    rows = tour.run(tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') >= 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    packed = "convolutions are packed"
    for word in ("What is installed", "hiera_micro_digits", "more are declared", "held-out", packed):
        assert word in page
    assert page.index("<img ") < page.index("<table")  # the first thing is a picture
    assert "hiera_image_huge_224" not in page  # nor is it a list of models that cannot be tried without a download
    facts = {row["fact"]: row["value"] for row in rows}
    assert float(facts["hiera_micro_digits, held-out digits"].split()[0]) >= 97
    assert "FAILED" not in facts


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([72.824, 135.04, 3.3], ["73", "135", "3"]),
        ([7.2824, 1.5, 0.0], ["7.28", "1.50", "0.00"]),
        (["34.53 [31.25, 37.6]", "9 [8, 9.5]", ""], ["34.5 [31.2, 37.6]", "9.0 [8.0, 9.5]", ""]),
        (["0.36 [0.3169, 0.3902]", "-0.2 [-3e-05, 0.1]"], ["0.360 [0.317, 0.390]", "-0.200 [-0.000, 0.100]"]),
        (["3.15", "16.8"], ["3.1", "16.8"]),
        ([145, 97], ["145", "97"]),
        (["0.1.0", "1.0"], ["0.1.0", "1.0"]),
        (["98.7 %", "9 %"], ["98.7 %", "9 %"]),
        (["", None], ["", "None"]),
    ],
)
def test_the_numbers_of_a_column_have_one_format(column, texts):
    assert tour.one_format(column) == texts


def test_path_that_cannot_be_written_is_said_before_the_first_stop(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("plm_core.tools.tour.resolve", lambda reference: pytest.fail("a stop was run"))
    monkeypatch.setattr("sys.argv", ["plm", "tour", "--out", str(tmp_path / "file" / "report.html")])
    from plm_core.cli import main

    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("plm: error: cannot write ")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"^the tour needs matplotlib: install plm-core\[tour\]$"):
        tour.run(tmp_path / "report.html")
    with pytest.raises(MissingDependency, match=r"^a plot needs matplotlib: install parc\[plot\]$"):
        figure("a plot", "parc[plot]")
    assert not list(tmp_path.iterdir())


def test_a_figure_takes_the_keywords_of_matplotlib():
    assert tuple(figure("a plot", "parc[plot]", figsize=(3, 2)).get_size_inches()) == (3, 2)


def test_failing_stop_is_reported_and_the_others_go_on(plm_registry, tmp_path, monkeypatch, capsys):
    bad = {"name": "bad-stop", "modules": {"bad_stop.py": BAD_STOP}, "entry_points": {"bad": "bad_stop"}}
    plm_registry(bad, environ={"PLM_PLUGINS": "bad"})  # only the stop of plm-core runs beside it
    monkeypatch.setattr("sys.argv", ["plm", "tour", "--out", str(tmp_path / "report.html")])
    from plm_core.cli import main

    with pytest.raises(SystemExit) as exit_:
        main()
    page = (tmp_path / "report.html").read_text()
    assert exit_.value.code == 2
    assert "so far" in page
    assert "Panic: the stop broke &lt;here&gt;" in page
    assert "What is installed" in page
    assert "a stop of the tour failed" in capsys.readouterr().err
