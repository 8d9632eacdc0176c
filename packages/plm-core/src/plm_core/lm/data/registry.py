"""Sources by name, in a YAML file: ``name: {annotation: rows.jsonl, root_dir: images}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plm_core.errors import InputError, MissingDependency
from plm_core.lm.data.sources import Rows, open_rows
from plm_core.utils.near_misses import miss
from plm_core.utils.text import first_line, shown


@dataclass(frozen=True)
class Entry:
    """One source."""

    annotation: str
    """What `open_rows` takes."""
    root: Path | None = None
    """The folder of the media; None for that of the annotation."""

    def open(self) -> Rows:
        """Return its rows."""
        return open_rows(self.annotation, self.root)


def load_registry(path: str | Path) -> dict[str, Entry]:
    """Return the sources in a file by name. Paths in it are relative to the file.

    Raises:
        InputError: The file cannot be read, is no YAML, or has an entry that is not allowed.
        MissingDependency: PyYAML is not installed.
    """
    path = Path(path)
    loaded = _yaml(path)
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(f"registry {str(path)!r} has no names with entries, as in 'name: {{annotation: rows.jsonl}}'")
    return {str(name): _entry(path, str(name), fields) for name, fields in loaded.items()}


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as e:
        raise MissingDependency("registries need PyYAML: install plm-core[lm]") from e
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"registry {str(path)!r} cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        reason = f"line {mark.line + 1}: {getattr(e, 'problem', '')}" if mark else first_line(e)
        raise InputError(f"registry {str(path)!r} is no YAML: {reason}") from e


def _entry(path: Path, name: str, fields: Any) -> Entry:
    where = f"registry {str(path)!r}, {shown(name)}"
    if not isinstance(fields, Mapping):
        raise InputError(f"{where}: {shown(repr(fields))} is no entry, as in 'annotation: rows.jsonl'")
    for key in fields:
        if key not in ("annotation", "root_dir"):
            raise InputError(f"{where}: {miss('key', str(key), ('annotation', 'root_dir'))}")
    annotation, root = fields.get("annotation"), fields.get("root_dir")
    for key, value in (("annotation", annotation), ("root_dir", root)):
        if not (isinstance(value, str) and value) and (key == "annotation" or value is not None):
            raise InputError(f"{where}: {key} is {shown(repr(value))}; a path is needed")
    text = str(annotation)
    return Entry(
        text if text.startswith("hf:") else str(path.parent / text), None if root is None else path.parent / str(root)
    )
