"""Writing the weights of a model: one file, or a folder for the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from plm_core.errors import InputError
from plm_core.hookspecs import Model
from plm_core.hub import CARD_FILE, CONFIG_FILE, MODEL_FILES, RECORD_FILE, WEIGHTS_FILE, read_config
from plm_core.model_config import FORMAT
from plm_core.registry import registry
from plm_core.transforms import applied_to
from plm_core.utils.arguments import check_type
from plm_core.utils.files import atomic_paths
from plm_core.weights.files import safetensors_path, store, write
from plm_core.weights.mapping import export

UNKNOWN = "unknown"
"""The Hub's word for a license that nobody has named."""
TAG = "plm"
"""The last tag of every model card of ours."""
_log = logging.getLogger("plm_core")

USE = """import plm_core

model = plm_core.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:org/name
"""
USE_IMAGES = """preprocess = plm_core.transform_for(model)  # PIL image -> float tensor [C, H, W]
names = model.pretrained_cfg.get("label_names")
"""


def save(model: nn.Module, path: str | Path, layout: str | None = None) -> None:
    """Write the weights of a model to a safetensors file, whole or not at all.

    Args:
        model: Any model.
        path: A path that ends in .safetensors.
        layout: The layout to write (default: the model's own keys).

    Raises:
        InputError: The path does not end in .safetensors, the model has no such layout, or an argument is of another
            type.
        NotSupported: The other code base has no such variant of the model.
        WeightsError: The layout has no place for some of the tensors, or the file cannot be written.

    Example:
        >>> import tempfile, timm
        >>> from plm_core import weights
        >>> model = timm.create_model("test_vit")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weights.save(model, f"{folder}/vit.safetensors")
        ...     len(weights.read(f"{folder}/vit.safetensors"))
        80
    """
    path = safetensors_path("path", path)
    write(export(model, layout), path, {"layout": layout or "native"})


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    license: str | None = None,
    card: str = "",
    *,
    labels: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder: model.safetensors, a README.md with the license of the weights, and then config.json.

    Both ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and, after `plm_core.hub.push`,
    ``timm.create_model("hf-hub:org/name", pretrained=True)`` read it back. A folder is complete when it has a config:
    whenever the process is killed, the folder holds the model from before, this one, or no config. It holds the model
    without transforms, and a logged line names those that are applied.

    Args:
        model: A model from ``create_model``.
        folder: The folder to write to. It is created if it does not exist. A model folder is overwritten.
        license: SPDX identifier of the license of the weights, or "other". None for that of the weights that the model
            may have started from, or else "unknown". A logged line says which it is.
        card: Text of the model card below its front matter.
        labels: Names of the classes in their order, or None for those that the model has.
        about: Further facts for the key ``plm`` of the config, such as the recipe.

    Raises:
        InputError: The model cannot be created by name again, the license is empty, the number of labels is not that of
            the classes, or the folder has files of these names that belong to something else.
        FileError: A file cannot be written. The folder is unchanged.
        WeightsError: The model has no weights, for it is on the meta device.

    Example:
        >>> import tempfile, plm_core
        >>> from plm_core import weights
        >>> model = plm_core.create_model("test_vit", num_classes=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weights.save_pretrained(model, folder, license="apache-2.0", labels=["cat", "dog"])
        ...     again = plm_core.create_model(folder, pretrained=True)
        >>> weights.fingerprint(again) == weights.fingerprint(model), again.pretrained_cfg["label_names"]
        (True, ['cat', 'dog'])
    """
    check_type("model", model, nn.Module, "an nn.Module")
    check_type("folder", folder, str | Path, "a path")
    check_type("license", license, str | None, "an SPDX identifier")
    check_type("card", card, str, "text")
    check_type("labels", labels, list | tuple | None, "a list of names")
    check_type("about", about, Mapping | None, "a dict of facts")
    for argument, value in (("labels", labels), ("about", about)):
        try:
            json.dumps(value)
        except (TypeError, ValueError) as e:
            raise InputError(f"{argument} cannot be written as JSON: {e}") from e
    start: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    name = start.get("architecture")
    if not name or not hasattr(model, "num_classes"):
        raise InputError(
            "model cannot be created again by name: create it with plm_core.create_model, without features_only"
        )
    if license is not None and not license.strip():
        raise InputError("license is empty: name the SPDX identifier of the weights")
    num_classes: Any = model.num_classes
    if labels is not None and len(labels) != num_classes:
        raise InputError(f"labels has {len(labels)} names; the model has {num_classes} classes")
    license = (license or _license_of(start)).strip().lower()  # the Hub's spelling of SPDX identifiers
    folder = Path(folder)
    check_replaceable(folder)
    declared = registry().all(Model).get(name)
    task = declared.declaration.task if declared else "image-classification"
    if not num_classes and not task.startswith("zero-shot"):  # whose classes are texts
        task = task.replace("classification", "feature-extraction")
    facts = {"format": FORMAT, "task": task, **(about or {})}
    with atomic_paths(folder / WEIGHTS_FILE, folder / CARD_FILE, folder / CONFIG_FILE) as parts:
        store(export(model), parts[0], {"layout": "native"})
        parts[1].write_text(_front_matter(license, task) + _card(name, card, task), encoding="utf-8")
        _write_config(model, parts[2], license, labels, facts)
    _say_what_is_left_out(model)


def check_replaceable(folder: Path) -> None:
    """Refuse to overwrite files that are not those of a model folder, of a training, or of a save that was killed.

    Raises:
        InputError: There are such files.
    """
    present = [name for name in MODEL_FILES if (folder / name).exists()]
    if not present or (folder / RECORD_FILE).exists():
        return
    with suppress(InputError):
        if "architecture" in read_config(folder):
            return
    with suppress(OSError, UnicodeDecodeError):
        if CONFIG_FILE not in present and f'"{TAG}"]\n---\n' in (folder / CARD_FILE).read_text(encoding="utf-8"):
            return
    raise InputError(
        f"folder {str(folder)!r} has files that are not those of a model folder and would be overwritten "
        f"({', '.join(present)}): choose another"
    )


def _say_what_is_left_out(model: nn.Module) -> None:
    """Say which transforms are applied to a model, since a model folder holds the plain model."""
    for name in dict.fromkeys(name for part in model.modules() for name in applied_to(part)):
        _log.warning(
            "the saved model is without the transform %r: after loading, plm_core.apply(model, %r, ...) with the same "
            "options applies it again",
            name,
            name,
        )


def _license_of(start: Mapping[str, Any]) -> str:
    """Return the license of the weights that a model may have started from, and say so."""
    license = start.get("license")
    whose = "that of the weights that the model may have started from" if license else "nobody has named one"
    _log.warning(
        "license of the saved weights: %s, %s; save_pretrained(license=...) names it", license or UNKNOWN, whose
    )
    return license or UNKNOWN


def _write_config(
    model: nn.Module, path: Path, license: str, labels: Sequence[str] | None, facts: Mapping[str, Any]
) -> None:
    """Write timm's configuration of a model, with the names of its classes and our own facts, to a temporary file."""
    from timm.models._hub import save_config_for_hf

    # timm's configuration still describes the weights that the model may have started from, not these
    start = {"license": license, "description": None, "tag": None}
    config: dict[str, Any] = {"pretrained_cfg": start, "plm": facts}
    if labels is not None:
        config["label_names"] = list(labels)
        start |= {"label_names": None, "label_descriptions": None}
    save_config_for_hf(model, path, config)


def _front_matter(license: str, task: str) -> str:
    head = {"license": license, "library_name": "timm", "pipeline_tag": task, "tags": [task, TAG]}
    return "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()) + "\n---\n"


def _card(name: str, text: str, task: str) -> str:
    use = USE + (USE_IMAGES if task == "image-classification" else "")
    command = "" if task == "other" else "Or `plm predict FOLDER FILE` on the command line."
    if registry().all(Model).get(name):  # timm does not know it by itself
        command += f" `timm.create_model` takes it too, once `plm_core` is imported, which knows `{name}`."
    return f"\n# {name}\n\n{text.strip()}\n\n## Use\n\n```python\n{use}```\n\n{command.strip()}\n"
