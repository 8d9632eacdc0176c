"""Weights written out: one file, or a folder for the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from plm_core.errors import InputError
from plm_core.hookspecs import Model
from plm_core.hub import WEIGHTS_FILE
from plm_core.registry import registry
from plm_core.utils.files import atomic_path, write_text
from plm_core.weights.files import write
from plm_core.weights.mapping import export


def save(model: nn.Module, path: str | Path, layout: str | None = None) -> None:
    """Write a model's weights as safetensors in a layout (the model's own when None), whole or not at all."""
    write(export(model, layout), path, {"layout": layout or "native"})


def save_pretrained(model: nn.Module, folder: str | Path, license: str, card: str = "") -> None:
    """Write a folder for the Hub: model.safetensors, timm's config.json and README.md with the weights' license.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and, after `plm_core.hub.push`, ``hf-hub:org/name``
    read it back.

    Args:
        model: A model made by ``create_model``.
        folder: Where to; made when absent.
        license: SPDX identifier of the weights.
        card: Text of the model card below its front matter.
    """
    from timm.models._hub import save_config_for_hf

    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name or not hasattr(model, "num_classes"):
        raise InputError("model is none that can be made again: make it with plm_core.create_model, not features_only")
    if not license:
        raise InputError("license is empty: name the SPDX identifier of the weights")
    license = license.lower()  # as the Hub spells SPDX identifiers
    folder = Path(folder)
    save(model, folder / WEIGHTS_FILE)
    with atomic_path(folder / "config.json") as part:
        # what timm kept of the weights that the model may once have started from is not about these
        save_config_for_hf(model, part, {"pretrained_cfg": {"license": license, "description": None}})
    declared = registry().all(Model).get(name)
    task = [declared.declaration.task] if declared else []
    head = {"license": license, "library_name": "timm", "tags": [*task, "plm"]}
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    use = f'import plm_core\nmodel = plm_core.create_model("local-dir:...", pretrained=True)  # {name}'
    write_text(folder / "README.md", f"---\n{front}\n---\n\n# {name}\n\n{card}\n\n```python\n{use}\n```\n")
