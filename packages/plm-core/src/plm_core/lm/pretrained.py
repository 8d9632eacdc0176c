"""Models from and to files: loading without a second copy in memory, and folders that transformers and vLLM read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm_core import weights
from plm_core.errors import InputError, NotSupported
from plm_core.hookspecs import Model
from plm_core.hub import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, HubFile, fetch, read_config
from plm_core.lm.builders import RENAMED, TOWERS, build
from plm_core.lm.model import PerceptionLM
from plm_core.models import create_model
from plm_core.registry import registry
from plm_core.utils.files import atomic_paths, make_folder
from plm_core.weights.files import store

MODEL_TYPE = "perception_lm"
"""transformers' name for this architecture."""
CLS_TOKEN = {name: tower.cls_token for name, tower in TOWERS.items()}
"""Whether a tower of timm has a class token."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The data types of weights by the names that commands give them."""
SHARD = "5GB"
"""The largest file of weights, by default, which is transformers' default too."""


def from_pretrained(source: str | Path, dtype: torch.dtype | None = None) -> PerceptionLM:
    """Load a model in eval mode, without a second copy of its weights in memory.

    Args:
        source: The name of a declared model, with or without a tag, such as ``plm_micro_shapes``; a model folder of
            ours; or a folder or repository ``org/name[@revision]`` that transformers reads as a PerceptionLM.
        dtype: Data type of the weights; None for that of the file.

    Raises:
        UnknownName: There is no such model.
        WeightsError: The weights cannot be obtained or do not fit.
        InputError: The source holds another kind of model.
        MissingDependency: Something that the model needs is not installed.
    """
    config, tensors = _configuration(str(source)), str(source)
    if config is None:
        model: Any = create_model(str(source), pretrained=True)
        if not isinstance(model, PerceptionLM):
            raise InputError(
                f"model {str(source)!r} is a {type(model).__name__}; a language model that sees is expected"
            )
        return model.to(dtype=dtype).eval()
    declared = registry().all(Model).get(tensors.partition(".")[0])
    if declared is not None and "." not in tensors:
        tensors = f"{tensors}.{declared.declaration.pretrained[0].tag}"
    state = weights.read(tensors)
    with torch.device("meta"):
        model = build(config)
    if dtype is not None:
        state = {key: value.to(dtype) for key, value in state.items()}
    weights.load(model, state)
    return model.eval()


def _configuration(source: str) -> Any:
    """Return the configuration of a model that is built on the meta device first; None for others."""
    declared = registry().all(Model).get(source.partition(".")[0])
    if declared is not None:
        config: Any = declared.declaration.config
        in_files = any(entry.repo for entry in declared.declaration.pretrained)
        return config if in_files and "vision_config" in config else None
    folder = Path(source)
    if folder.is_dir():
        config = read_config(folder)
    elif (file := HubFile.parse(source)) is not None:
        config = read_config(fetch(HubFile(file.repo, file.revision, CONFIG_FILE)).parent)
    else:
        return None
    return config if config.get("model_type") == MODEL_TYPE and _has_own_tower(config) else None


def timm_tower(keywords: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ``vision_config`` by which timm builds a tower of the Perception Encoder.

    Args:
        keywords: Those of the tower in the package pe-encoder.

    Returns:
        None for a tower that has something after its blocks, and for one of another kind.
    """
    if keywords.get("use_ln_post") is not False or keywords.get("output_dim") is not None:
        return None
    cls_token = keywords.get("use_cls_token", True)
    size = keywords.get("img_size") or keywords["image_size"]
    sides = [size, size] if isinstance(size, int) else list(size)
    arguments = {timms: keywords[ours] for timms, ours in RENAMED.items() if keywords.get(ours) is not None}
    return {
        "architecture": next(name for name, has in CLS_TOKEN.items() if has == cls_token),
        "model_args": {
            **arguments,
            "patch_size": keywords["patch_size"],
            "mlp_ratio": keywords["mlp_ratio"],
            "img_size": sides,
            "ref_feat_shape": [side // keywords["patch_size"] for side in sides],
            "global_pool": "",
        },
    }


def _has_own_tower(config: Any) -> bool:
    """Return whether the tower has no buffers that only its constructor can fill."""
    return config["vision_config"]["architecture"] in TOWERS


def save_transformers(model: PerceptionLM, folder: str | Path, max_shard_size: str = SHARD) -> list[str]:
    """Write the configuration and the weights of a model as transformers writes a PerceptionLM.

    ``AutoModelForImageTextToText.from_pretrained(folder)`` and vLLM read the folder. `Processor.save_pretrained` adds
    the tokenizer and the preprocessing. Files come whole or not at all, the configuration last.

    Args:
        model: The model, whose tower must be one that timm has, or of the Perception Encoder.
        folder: The folder to write to. It is created if it does not exist.
        max_shard_size: Largest size of a file of weights, such as "5GB".

    Returns:
        The names of the files.

    Raises:
        NotSupported: timm has no such tower, so transformers cannot build the model.
        FileError: A file cannot be written.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    config = transformers_config(model)
    tensors: dict[str, Tensor] = weights.export(model, "transformers")
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    folder = make_folder(folder)
    files = plan.filename_to_tensors
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    texts = {INDEX_FILE: index} if plan.is_sharded else {}
    texts[CONFIG_FILE] = config
    with atomic_paths(*(folder / name for name in (*files, *texts))) as parts:
        for part, keys in zip(parts, files.values(), strict=False):
            store({key: tensors[key] for key in keys}, part, {})
        for part, content in zip(parts[len(files) :], texts.values(), strict=True):
            part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if plan.is_sharded:
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)  # a smaller model that was here before
    return [*files, *texts]


def transformers_config(model: PerceptionLM) -> dict[str, Any]:
    """Return the config.json by which transformers builds a model.

    Raises:
        NotSupported: The model has no configuration, or a tower that is not timm's.
    """
    if model.config is None:
        raise NotSupported("the model was made of parts, and has no configuration; plm_core.lm.build makes one with it")
    config: dict[str, Any] = model.config.to_dict()
    name = config["vision_config"]["architecture"]
    declared = registry().all(Model).get(name)
    if declared is not None:
        tower = timm_tower({**declared.declaration.config, **(config["vision_config"].get("model_args") or {})})
        if declared.distribution != "pe-encoder" or tower is None:
            raise NotSupported(f"transformers builds towers of timm alone, and {name!r} is of {declared.distribution}")
        config["vision_config"] = {"model_type": "timm_wrapper", **tower}
        config["vision_use_cls_token"] = CLS_TOKEN[tower["architecture"]]
    config["architectures"] = ["PerceptionLMForConditionalGeneration"]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    return config
