"""The model that a training begins with: its keywords, and its weights, whole or from a tower and a decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from plm_core import weights
from plm_core.errors import InputError, NoWeights, WeightsError
from plm_core.hookspecs import Model
from plm_core.hub import CONFIG_FILE, HubFile, fetch, read_config
from plm_core.layouts import State
from plm_core.lm.builders import TOWERS
from plm_core.lm.model import PerceptionLM
from plm_core.lm.processor import Processor
from plm_core.lm.recipes.tables import StageConfig
from plm_core.lm.recipes.tokenizers import has_tokenizer, load_tokenizer
from plm_core.registry import registry
from plm_core.runs import Job
from plm_core.runs.job import architecture_of
from plm_core.runs.request import last_part
from plm_core.weights.mapping import announce_rest

BUILDER = "plm_core.lm.builders:perception_lm"
"""The builder of the models that are trained here."""
SHAPING = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size"),
)
"""What two configurations of decoders must agree in for the weights of one to fit the other."""
DECODER, TOWER = "decoder.", "vision.tower."
_SCALE = re.compile(r"vision\.tower\.blocks\.\d+\.ls[12]\.gamma")
_BUFFERS = ".rotary_emb.inv_freq"  # what old files hold of a decoder beside its weights


def shaped(job: Job, config: StageConfig, image_id: int) -> Job:
    """Return a job whose model has the shape that the configuration asks for.

    Args:
        job: The job.
        config: The settings.
        image_id: The placeholder of visual tokens, by the tokenizer.

    Raises:
        InputError: The model is no language model that sees, or has no such layer scale.
        WeightsError: The configuration of the decoder to start from cannot be obtained.
    """
    known = keywords_of(job)
    changes: dict[str, Any] = {"image_token_id": image_id}
    if config.pooling_ratio is not None:
        changes["projector_pooling_ratio"] = config.pooling_ratio
    if config.layer_scale is not None:
        changes["vision_config"] = _scaled(known["vision_config"], config.layer_scale)
    if starts_from_parts(job, config):
        changes |= _decoder_keywords(known["text_config"], str(config.decoder))
    own = {key: value for key, value in job.model_kwargs.items() if key != "vision_config"}
    return replace(job, model_kwargs={**job.model_kwargs, **changes, **own})


def keywords_of(job: Job) -> dict[str, Any]:
    """Return the keywords that a job's model would be built with.

    Raises:
        InputError: The model is no language model that sees.
    """
    declared = registry().all(Model).get(architecture_of(job.model))
    if declared is None or declared.declaration.builder != BUILDER:
        raise InputError(
            f"model {job.model!r} is no language model that sees; recipe {job.recipe!r} trains plm_1b and others of "
            "plm list 'plm_*', and their model folders"
        )
    folder = folder_of(job.model)
    saved = {} if folder is None else read_config(folder).get("model_args") or {}
    return {**declared.declaration.config, **saved, **job.model_kwargs}


def folder_of(source: str | None) -> Path | None:
    """Return the model folder that a source is, or None."""
    path = Path((source or "").removeprefix("local-dir:"))
    return path if source and (path / CONFIG_FILE).is_file() else None


def _scaled(vision: Mapping[str, Any], layer_scale: float) -> dict[str, Any]:
    """Return the configuration of a tower with a layer scale, or for 0 without one."""
    if vision["architecture"] not in TOWERS:
        raise InputError(
            f"layer_scale {layer_scale} is not allowed: the tower is {vision['architecture']}, and only those of the "
            "Perception Encoder have layer scales that come and go; None is"
        )
    return {**vision, "model_args": {**(vision.get("model_args") or {}), "init_values": layer_scale or None}}


def _decoder_keywords(declared: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the keywords for a decoder: its declared configuration, or for weights of another shape their own.

    Whether its head is tied to its words is what its own says.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if not folder.is_dir():
        repo = HubFile.parse(source)
        if repo is None:
            raise InputError(f"decoder {source!r} is neither a folder nor a repository 'org/name[@revision]'")
        folder = fetch(replace(repo, file=CONFIG_FILE)).parent
    own = dict(read_config(folder))
    if not isinstance(own.get("model_type"), str):
        raise WeightsError(f"decoder {source!r} is no model of transformers: its config.json has no model_type")
    same = all(own.get(name) == declared.get(name) for name in SHAPING if own.get(name) is not None)
    left_out = ("architectures", "transformers_version", "torch_dtype", "dtype")
    text = {name: value for name, value in own.items() if name not in left_out}
    tied = bool(AutoConfig.for_model(**text).tie_word_embeddings)
    return {"text_config": dict(declared) if same else text, "tie_word_embeddings": tied}


def starts_from_parts(job: Job, config: StageConfig) -> bool:
    """Return whether a training starts from a tower and a decoder: where no weights of a whole model are named.

    Raises:
        InputError: Only one of the two is named.
    """
    if not job.pretrained or job.weights is not None or folder_of(job.model) is not None:
        return False
    if (config.decoder is None) != (config.tower is None):
        raise InputError(f"decoder is {config.decoder!r} and tower is {config.tower!r}; both are needed, or none")
    return config.decoder is not None


def start_in_words(job: Job, config: StageConfig) -> str:
    """Say from what decoder and tower a training starts, for the model card; empty if it starts from a whole model."""
    if not starts_from_parts(job, config):
        return ""
    return f"the decoder of `{last_part(str(config.decoder))}` and the tower of `{last_part(str(config.tower))}`"


def whole_source(job: Job) -> str | None:
    """Return the weights of a whole model that a training starts from, or None if it starts from random ones.

    Raises:
        NoWeights: There are none of the model.
    """
    if job.weights is not None or not job.pretrained:
        return job.weights
    if (folder := folder_of(job.model)) is not None:
        return str(folder)
    name, _, tag = job.model.partition(".")
    declared = registry().get(Model, name).pretrained
    if not declared:
        raise NoWeights(
            f"model {name!r} has no pretrained weights: name a model folder (--model or --weights), or start from "
            "random weights (--random)"
        )
    return f"{name}.{tag or declared[0].tag}"


def find_tokenizer(job: Job, config: StageConfig) -> Any:
    """Return the tokenizer of a training: the one that is named, or that of its model; None if nothing names one.

    Raises:
        InputError: It cannot be loaded.
        WeightsError: Its files cannot be obtained.
    """
    folders = [folder for source in (job.weights, job.model) if (folder := folder_of(source)) and has_tokenizer(folder)]
    if config.tokenizer is not None or folders:
        return load_tokenizer(config.tokenizer or folders[0])
    if starts_from_parts(job, config):
        return load_tokenizer(str(config.decoder))
    declared = registry().all(Model).get(job.model.partition(".")[0])
    entries = declared.declaration.pretrained if declared else ()
    if not entries or (entries[0].repo and not job.pretrained):  # a trial with random weights downloads nothing
        return None
    return Processor.from_pretrained(job.model).tokenizer


def create(job: Job, config: StageConfig) -> PerceptionLM:
    """Create the model of a job with its starting weights. What no weights are named for is random.

    Args:
        job: As `shaped` returns it.
        config: The settings.

    Raises:
        InputError: See `starts_from_parts`.
        WeightsError: The weights cannot be obtained, or do not fit.
    """
    model: Any = replace(job, pretrained=False, weights=None).create(drop_path_rate=config.drop_path)
    if starts_from_parts(job, config):
        load_decoder(model, str(config.decoder))
        load_tower(model, str(config.tower))
    elif (source := whole_source(job)) is not None:
        load_whole(model, source)
    checked: PerceptionLM = model
    return checked


def load_whole(model: PerceptionLM, source: str) -> None:
    """Load the weights of a whole model in any layout. Layer scales that they lack stay as they are.

    Raises:
        WeightsError: The weights cannot be obtained, or do not fit.
    """
    mapped, report = weights.to_native(model, weights.read(source))
    announce_rest(report, type(model).__name__)
    scales = {name: value for name, value in model.state_dict().items() if _SCALE.fullmatch(name)}
    weights.load(model, scales | mapped)


def load_decoder(model: PerceptionLM, source: str) -> None:
    """Load the decoder from the files of a causal language model of transformers.

    Raises:
        WeightsError: The files cannot be obtained, or do not fit.
    """
    state = {DECODER + name: value for name, value in weights.read(source).items() if not name.endswith(_BUFFERS)}
    own = model.state_dict()
    if model.tied:
        state = {name: value for name, value in state.items() if name in own or not name.endswith("lm_head.weight")}
    _load_part(model, own, state, DECODER)


def load_tower(model: PerceptionLM, source: str) -> None:
    """Load the tower from a vision tower of the same width, such as a PE-Core, of which the first blocks are taken.

    What the source has beyond these is left out. Its position table is resized. Layer scales that it lacks stay as they
    are.

    Raises:
        WeightsError: The weights cannot be obtained, or do not fit.
    """
    mapped, _ = weights.to_native(model.vision.tower, weights.read(source))
    own = model.state_dict()
    scales = {name: value for name, value in own.items() if _SCALE.fullmatch(name)}
    taken = {TOWER + name: value for name, value in mapped.items() if TOWER + name in own}
    _load_part(model, own, scales | taken, TOWER)


def _load_part(model: PerceptionLM, own: State, state: Mapping[str, Tensor], prefix: str) -> None:
    """Load the tensors of a part of a model, all or nothing."""
    missing = [name for name in own if name.startswith(prefix) and name not in state]
    if missing:
        raise WeightsError(
            f"the weights to start from lack {len(missing)} tensors of the {prefix.strip('.')}, such as "
            f"{missing[0].removeprefix(prefix)}"
        )
    weights.load(model, {**own, **state}, layout="native")
