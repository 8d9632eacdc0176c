"""The names that timm itself registers, without importing timm."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path


def timm_names() -> set[str]:
    """Return the names that timm itself registers, including deprecated ones.

    They are read from timm's source, because importing timm takes seconds.
    """
    spec = util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return set()
    current = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
    deprecated = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)\}\)", re.MULTILINE | re.DOTALL)
    names: set[str] = set()
    for file in Path(spec.submodule_search_locations[0], "models").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        names.update(current.findall(source))
        for table in deprecated.findall(source):
            names.update(re.findall(r"['\"](\w+)['\"]\s*:", table))
    return names
