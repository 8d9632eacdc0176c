"""The recipes ``hiera-pretrain`` and ``hiera-pretrain-video``: a masked autoencoder, of which the encoder is kept."""

from __future__ import annotations

from typing import Any

import torch

from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.recipes.steps import pretrain, pretrain_transform
from hiera.recipes.tables import PretrainConfig
from plm_core import InputError
from plm_core.datasets import Pictures, read_dataset, readable
from plm_core.hookspecs import Input, Model
from plm_core.models import input_of
from plm_core.registry import registry
from plm_core.runs import Job, Trained, begin
from plm_core.video import ClipSettings, open_clips, per_clip

AUTOENCODER_FILE = "autoencoder.safetensors"


def run(job: Job) -> Trained | None:
    """Pretrain on images or videos. The labels are not used.

    The folder holds the encoder as a model without classes, to be finetuned, and the whole autoencoder as a file.
    """
    config: PretrainConfig = job.config
    with torch.device("meta"):
        encoder = job.create(num_classes=0)
    if not isinstance(encoder, Hiera):
        raise InputError(f"model {job.model!r} is a {type(encoder).__name__}; recipe {job.recipe!r} trains a Hiera")
    spec = input_of(encoder)
    data, found = _open(job, config, spec)
    begin(job, found)
    config = job.config_for(len(data))
    torch.manual_seed(job.seed)
    keywords = _keywords(encoder, config)
    model = MaskedAutoencoderHiera(**keywords, drop_path_rate=config.drop_path)
    result = pretrain(model, data, config, **job.options)
    if not result.main:
        return None
    whole = MaskedAutoencoderHiera(**keywords)
    whole.load_state_dict(result.state)
    state = whole.plain_encoder(q_pool=keywords["q_pool"] + 1).state_dict()
    return Trained(
        model=job.rebuild(state, num_classes=0),
        scores={"training loss": result.history[-1]["loss"]} if result.history else {},
        history=result.history,
        data=found,
        notes={"Autoencoder": f"`{AUTOENCODER_FILE}` holds the encoder and the decoder, to go on with the pretraining"},
        extras={AUTOENCODER_FILE: whole},
    )


def _keywords(encoder: Any, config: PretrainConfig) -> dict[str, Any]:
    """Return the constructor keywords of the autoencoder around a declared model, which has one pooling less."""
    declared = registry().get(Model, encoder.pretrained_cfg["architecture"]).config
    own = {**declared, **encoder._model_args}  # timm keeps the keywords of create_model
    own = {name: value for name, value in own.items() if name not in ("num_classes", "drop_rate")}
    return own | {
        "q_pool": own.get("q_pool", 3) - 1,
        "decoder_embed_dim": config.decoder_embed_dim,
        "decoder_depth": config.decoder_depth,
        "decoder_num_heads": config.decoder_num_heads,
    }


def _open(job: Job, config: PretrainConfig, spec: Input) -> tuple[Any, str]:
    """Return the dataset for a model's input, and the data in words."""
    preprocess = pretrain_transform(spec.size[1:], config, spec.mean, spec.std, spec.size[0])
    data = readable(read_dataset(job.data), job.skip_unreadable)
    found = f"{len(data)} {data.kind}"
    if spec.frames is None:
        return Pictures(data, preprocess), found
    sampling = config if isinstance(config, ClipSettings) else ClipSettings()
    return open_clips(data, spec, sampling, per_clip(preprocess)), found
