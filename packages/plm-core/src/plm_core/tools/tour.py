"""The tour: plug-ins contribute stops, which become a self-contained HTML report and a short table."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plm_core.hookspecs import TourStop
from plm_core.registry import registry
from plm_core.utils.files import atomic_path
from plm_core.utils.plots import require_matplotlib
from plm_core.utils.progress import track
from plm_core.utils.references import resolve
from plm_core.utils.text import describe

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.8rem; } h2 { margin-top: 2.5rem; border-bottom: 2px solid #d8dee9; padding-bottom: .25rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border: 1px solid #d8dee9; padding: .3rem .7rem; text-align: left; overflow-wrap: anywhere; }
th { background: #f2f5f9; } img { max-width: 100%; height: auto; } figcaption { color: #57606f; font-size: .9rem; }
figure { margin: 1rem 0; } code, pre { background: #f2f5f9; border-radius: 4px; padding: .1rem .3rem; }
pre { padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.failed { color: #b00020; } footer { margin-top: 3rem; color: #57606f; }
@media (max-width: 480px) { table { font-size: .75rem; } td, th { padding: .15rem .3rem; } }
"""


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_NUMBERS = re.compile(rf"{_NUMBER.pattern}(?: \[{_NUMBER.pattern}, {_NUMBER.pattern}\])?")


@dataclass
class Tour:
    """The output of one stop: its part of the report, and its lines of the table on the terminal."""

    parts: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, code: str) -> None:
        """Add a block of code."""
        self.parts.append(f"<pre>{html.escape(code)}</pre>")

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a table of rows with equal keys. The numbers of a column get one format, see `one_format`."""
        head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
        columns = [one_format([row[key] for row in rows]) for key in rows[0]]
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in zip(*columns, strict=True)
        )
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def figure(self, figure: Any, caption: str) -> None:
        """Add a matplotlib figure, which is stored inside the report."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        data = base64.b64encode(buffer.getvalue()).decode()
        text = html.escape(caption)
        image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
        self.parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")

    def fact(self, what: str, value: str) -> None:
        """Add a line to the table on the terminal."""
        self.facts[what] = value


def one_format(column: Sequence[Any]) -> list[str]:
    """Return the cells of a column as texts, with the same number of decimals in all its numbers.

    The largest number gets three digits, and whole numbers stay whole. Numbers are floats, and texts such as ``0.34``
    or ``34.5 [31.2, 37.6]``. A column with a cell of another kind stays as it is.
    """
    texts = [str(cell) for cell in column]
    filled = [text for text in texts if text]
    numbers = [float(number) for text in filled for number in _NUMBER.findall(text)]
    if not all(map(_NUMBERS.fullmatch, filled)) or all(isinstance(cell, int) for cell in column) or not numbers:
        return texts
    largest = max(map(abs, numbers))
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    return [_NUMBER.sub(lambda number: f"{float(number[0]):.{decimals}f}", text) for text in texts]


def run(out: Path) -> list[dict[str, str]]:
    """Run every stop and write the report. A stop that fails is reported in its place, and the others go on.

    Args:
        out: Path of the HTML file.

    Returns:
        Rows for the terminal: stop, fact, value.

    Raises:
        MissingDependency: The extra plm-core[tour] is not installed.
    """
    require_matplotlib("the tour", "plm-core[tour]")
    import matplotlib as mpl

    mpl.use("Agg")  # a stop may use pyplot, and there may be no display
    stops = sorted(registry().declared(TourStop), key=lambda stop: (stop.order, stop.name))
    rows: list[dict[str, str]] = []
    sections: list[str] = []
    with atomic_path(out) as report:  # opened before the first stop, so that a bad path fails at once
        for stop in track(stops, "tour"):
            tour = Tour()
            try:
                resolve(stop.run)(tour)
            except KeyboardInterrupt:
                raise
            except BaseException as e:  # a stop that fails must not keep the others from running
                tour.parts.append(f'<p class="failed">This stop failed: {html.escape(describe(e))}</p>')
                tour.facts = {"FAILED": describe(e)}
            sections.append(f"<section><h2>{html.escape(stop.title)}</h2>{''.join(tour.parts)}</section>")
            rows += [{"stop": stop.title, "fact": fact, "value": value} for fact, value in tour.facts.items()]
        report.write_text(_page(sections), encoding="utf-8")
    return rows


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>plm tour</title>
<meta name="viewport" content="width=device-width"><style>{style}</style></head>
<body><h1>The installed packages at work</h1>
<p>Everything below was computed on this machine, on data that ships with the packages; nothing was downloaded.</p>
{sections}
<footer>{version}</footer></body></html>
"""


def _page(sections: Sequence[str]) -> str:
    return PAGE.format(
        style=STYLE,
        sections="\n".join(sections),
        version=html.escape(", ".join(f"{name} {version(name)}" for name in ("plm-core", "torch", "timm"))),
    )
