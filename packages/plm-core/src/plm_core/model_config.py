"""What must hold for the config.json of a model before timm reads it: one check for folders and for repositories.

timm takes the values as they are. A wrong one becomes a bare error far from its cause, or a model that is not the one
of the weights.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plm_core.utils.text import shown

FORMAT = 1
"""Version of the model folders that this version writes, as ``plm.format`` in their config. It reads older ones too."""
MAX_BYTES = 1 << 24
MAX_NUMBER = 1_000_000
"""Largest number of classes, and largest size of a part of a model."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Pillow's filters by the names of timm, whose ``random`` is for training only."""
CROP_MODES = ("center", "squash", "border", "corner")
"""What timm knows."""
CROP_PCT = (0.1, 2.0)
"""The least and the largest ``crop_pct``; timm has models with up to 1.15, whose image is smaller than their input."""
Rule = tuple[str, Callable[[Any], bool]]
"""The expected value of a field in words, and whether a value is one."""


def fault_of(path: Path, place: str) -> str | None:
    """Say what is wrong with a config.json, naming the field; None if nothing is.

    Args:
        path: The file.
        place: The path of its folder or the name of its repository, for a hint.
    """
    try:
        config = read_json(path)
    except ValueError as e:
        return f"its config.json {e}"
    if "architecture" not in config:
        if isinstance(config.get("model_type"), str):
            return (
                f"it holds a model of transformers ({shown(config['model_type'])}); create it as 'transformers:{place}'"
            )
        if isinstance(config.get("_class_name"), str):
            return (
                f"it holds a model of diffusers ({shown(config['_class_name'])}); plm bench takes UNets of diffusers, "
                f"as 'diffusers:{place}'"
            )
        # the config.json of an original's own repository holds nothing but constructor keywords
        why = "its config.json is not timm's (no 'architecture')"
        return f"{why}; create the model by name and use plm_core.weights.load"
    wrong = next(_wrong_fields(config), None) or _contradiction(config)
    return wrong and f"its config.json has {wrong}"


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: The file cannot be read, or is something else. The message is the predicate of a sentence.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode() if len(data) <= MAX_BYTES else None
    except UnicodeDecodeError as e:
        raise ValueError(f"is not UTF-8 ({e.reason} at byte {e.start})") from e
    except OSError as e:
        raise ValueError(f"cannot be read: {e.strerror or e}") from e
    if text is None:
        raise ValueError(f"has more than {MAX_BYTES // 2**20} MiB")
    try:
        config = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("is not JSON (nested too deeply)") from None
    except ValueError as e:
        raise ValueError(f"is not JSON ({e})") from e
    if not isinstance(config, dict):
        raise ValueError("is not a JSON object")
    return config


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _wrong_fields(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield each field of another kind than expected, with its value and what is expected."""
    for prefix, part, rules in (("", None, {**TOP, **WEIGHTS}), *((f"{p}.", p, PARTS[p]) for p in PARTS)):
        fields = config if part is None else config.get(part) or {}
        for name, (expected, holds) in rules.items():
            if fields.get(name) is not None and not holds(fields[name]):
                yield f"{prefix}{name} {reprlib.repr(fields[name])}; {expected} is expected"
    for name, value in (config.get("model_args") or {}).items():
        if name.startswith("pretrained") or not _is_argument(value):
            field = f"model_args.{shown(name)} {reprlib.repr(value)}"
            yield f"{field}; a keyword of the model without numbers above {MAX_NUMBER} is expected"


def _contradiction(config: Mapping[str, Any]) -> str | None:
    """Say which two entries contradict each other; None if none do."""
    weights = config.get("pretrained_cfg") or {}
    written = (config.get("plm") or {}).get("format") or 0
    if written > FORMAT:
        return f"plm.format {written}: a newer version of plm-core wrote it (this one reads {FORMAT}); update plm-core"
    classes = config.get("num_classes", weights.get("num_classes"))
    labels = config.get("label_names") or weights.get("label_names")
    if isinstance(labels, list) and classes is not None and len(labels) != classes:
        return f"{len(labels)} labels for {classes} classes; they must agree"
    built = (config.get("model_args") or {}).get("num_classes")
    if None not in (built, classes) and built != classes:  # timm would leave the classifier random
        return f"num_classes {classes} and model_args.num_classes {reprlib.repr(built)}; they must agree"
    return None


def _is_number(value: Any, least: float, most: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and least <= value <= most


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and _is_number(value, least, most)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not re.search(r"[\ud800-\udfff]", value)


def is_printable(value: Any) -> bool:
    """Return whether a value is a text that a terminal shows as it is: no control characters, no half characters."""
    return _is_text(value) and not re.search(r"[\x00-\x1f\x7f-\x9f]", value)


def _is_list(value: Any, holds: Callable[[Any], bool], lengths: range) -> bool:
    return isinstance(value, list) and len(value) in lengths and all(map(holds, value))


def _is_table(value: Any, is_key: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(is_key(key) and is_printable(text) for key, text in value.items())


def _is_argument(value: Any) -> bool:
    """Return whether an argument of a constructor is free of absurd numbers, which would ask for absurd memory."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return len(value) <= MAX_NUMBER and all(map(_is_argument, value))
    if isinstance(value, int | float):
        return isinstance(value, bool) or _is_number(value, -MAX_NUMBER, MAX_NUMBER)
    return value is None or _is_text(value)


def _is_one_of(*texts: str) -> Rule:
    return f"one of {', '.join(texts)}", lambda v: v in texts


ANY = range(MAX_NUMBER + 1)
_COUNT: Rule = f"a whole number from 0 to {MAX_NUMBER}", lambda v: _is_whole(v, 0, MAX_NUMBER)
_NAME: Rule = "a name", lambda v: is_printable(v) and v != ""
_TEXT: Rule = "a text", _is_text
_OBJECT: Rule = "an object", lambda v: isinstance(v, dict)
_FLAG: Rule = "true or false", lambda v: isinstance(v, bool)
_LAYERS: Rule = "a name or a list of names", lambda v: is_printable(v) or _is_list(v, is_printable, ANY)
_LABELS: Rule = "a list of names", lambda v: _is_list(v, is_printable, ANY) or _is_table(v, str.isdecimal)
_INPUT: Rule = "[channels, height, width]", lambda v: _is_list(v, lambda n: _is_whole(n, 1, MAX_NUMBER), range(3, 4))
_CROP: Rule = f"a number from {CROP_PCT[0]:g} to {CROP_PCT[1]:g}", lambda v: _is_number(v, *CROP_PCT)
_POOL: Rule = "[height, width]", lambda v: _is_list(v, lambda n: _is_whole(n, 1, MAX_NUMBER), range(2, 3))
_NUMBERS: Rule = "a list of numbers", lambda v: _is_list(v, lambda n: _is_number(n, -1e9, 1e9), range(1, 1000))
_SCALES: Rule = "a list of numbers above 0", lambda v: _is_list(v, lambda n: _is_number(n, 1e-9, 1e9), range(1, 1000))

TOP: Mapping[str, Rule] = {
    "num_features": _COUNT,
    "model_args": _OBJECT,
    "pretrained_cfg": _OBJECT,
    "plm": _OBJECT,
}
WEIGHTS: Mapping[str, Rule] = {  # in pretrained_cfg, and in older files at the top
    "architecture": _NAME,
    "tag": _TEXT,
    "num_classes": _COUNT,
    "input_size": _INPUT,
    "test_input_size": _INPUT,
    "min_input_size": _INPUT,
    "fixed_input_size": _FLAG,
    "pool_size": _POOL,
    "test_pool_size": _POOL,
    "interpolation": _is_one_of(*INTERPOLATIONS),
    "crop_pct": _CROP,
    "test_crop_pct": _CROP,
    "crop_mode": _is_one_of(*CROP_MODES),
    "mean": _NUMBERS,
    "std": _SCALES,
    "first_conv": _LAYERS,
    "classifier": _LAYERS,
    "label_offset": _COUNT,
    "labels": _LABELS,
    "label_names": _LABELS,
    "label_descriptions": ("an object of texts", lambda v: _is_table(v, is_printable)),
    "license": _TEXT,
    "description": _TEXT,
    "custom_load": ("true, false or 'hf'", lambda v: isinstance(v, bool) or v == "hf"),
    "hf_hub_filename": _NAME,
    "state_dict": ("no entry", lambda v: False),
}
PARTS: Mapping[str, Mapping[str, Rule]] = {
    "pretrained_cfg": WEIGHTS,
    "plm": {"format": ("a number", lambda v: _is_whole(v, 0, 10**9)), "task": _NAME},
}
