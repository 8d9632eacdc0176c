"""Writing the weights of a model: one file, or a folder for the Hugging Face Hub."""

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
    """Write the weights of a model to a safetensors file, whole or not at all.

    Args:
        model: Any model.
        path: A path that ends in .safetensors.
        layout: The layout to write (default: the model's own keys).

    Raises:
        InputError: The path does not end in .safetensors, or the model has no such layout.
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
    write(export(model, layout), path, {"layout": layout or "native"})


def save_pretrained(model: nn.Module, folder: str | Path, license: str, card: str = "") -> None:
    """Write a folder for the Hub: model.safetensors, timm's config.json, and README.md with the license of the weights.

    Both ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and, after `plm_core.hub.push`,
    ``timm.create_model("hf-hub:org/name", pretrained=True)`` read it back.

    Args:
        model: A model from ``create_model``.
        folder: The folder to write to. It is created if it does not exist.
        license: SPDX identifier of the license of the weights.
        card: Text of the model card below its front matter.

    Raises:
        InputError: The model cannot be created by name again, or the license is empty.
        FileError: A file cannot be written.
        WeightsError: The weights cannot be written.

    Example:
        >>> import tempfile, plm_core
        >>> from plm_core import weights
        >>> model = plm_core.create_model("test_vit")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weights.save_pretrained(model, folder, license="apache-2.0", card="Random weights, for a test.")
        ...     again = plm_core.create_model(f"local-dir:{folder}", pretrained=True)
        >>> weights.fingerprint(again) == weights.fingerprint(model)
        True
    """
    from timm.models._hub import save_config_for_hf

    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name or not hasattr(model, "num_classes"):
        raise InputError(
            "model cannot be created again by name: create it with plm_core.create_model, without features_only"
        )
    if not license:
        raise InputError("license is empty: name the SPDX identifier of the weights")
    license = license.lower()  # the Hub's spelling of SPDX identifiers
    folder = Path(folder)
    save(model, folder / WEIGHTS_FILE)
    with atomic_path(folder / "config.json") as part:
        # timm's configuration still describes the weights that the model may have started from, not these
        save_config_for_hf(model, part, {"pretrained_cfg": {"license": license, "description": None}})
    declared = registry().all(Model).get(name)
    task = [declared.declaration.task] if declared else []
    head = {"license": license, "library_name": "timm", "tags": [*task, "plm"]}
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    use = f'import plm_core\nmodel = plm_core.create_model("local-dir:...", pretrained=True)  # {name}'
    write_text(folder / "README.md", f"---\n{front}\n---\n\n# {name}\n\n{card}\n\n```python\n{use}\n```\n")
