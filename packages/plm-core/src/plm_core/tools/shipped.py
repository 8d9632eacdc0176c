"""The files of weights that distributions ship, each with a model card beside it. Importing this imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator

from plm_core.hookspecs import Model, Pretrained
from plm_core.utils.references import shipped_file
from plm_core.utils.text import describe, shown


def file_faults(model: Model, weights: Pretrained) -> Iterator[str]:
    """Yield what is wrong with the file of a set of weights, or else with its model card; nothing for one on the Hub.

    The card is a Markdown file of the same name with the ending ``.md``. Its front matter names the license of the
    weights, as the README.md of a repository on the Hub does.
    """
    if weights.repo is not None:
        return
    which = f"file {weights.file!r} of model {model.name}.{weights.tag}"
    try:
        path = shipped_file(weights.file)
        is_there = path.is_file()
    except Exception as e:  # importlib may fail in many ways on a package that is only half there
        yield f"{which} cannot be found ({describe(e)})"
        return
    if not is_there:
        yield f"{which} is missing"
        return
    card = path.with_suffix(".md")
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        why = "is missing" if isinstance(e, FileNotFoundError) else f"cannot be read ({describe(e)})"
        yield f"model card {card.name!r} beside the {which} {why}"
        return
    license = _license_in(text)
    if license.lower() != weights.license.lower():
        has = f"license: {shown(license)}" if license else "no license"
        expected = f"'license: {weights.license.lower()}' is expected, as declared"
        yield f"model card {card.name!r} beside the {which} has {has} in its front matter; {expected}"


def _license_in(card: str) -> str:
    """Return the license that the front matter of a model card names, or an empty string."""
    front = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", card, re.DOTALL)
    line = re.search(r"^license:[ \t]*[\"']?([^\"'\r\n]+)", front[1], re.MULTILINE) if front else None
    return line[1].strip() if line else ""
