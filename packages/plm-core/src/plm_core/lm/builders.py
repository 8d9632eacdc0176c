"""Building a model by configuration: in the terms of transformers, or in those of the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from plm_core.errors import InputError, MissingDependency
from plm_core.lm.model import IMAGE_TOKEN_ID, VIDEO_TOKEN_ID, PerceptionLM
from plm_core.models import create_model

OFFICIAL = "meta_model"
"""The key under which the original's model section may stand."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision tower of the Perception Encoder under its name in timm.

    Attributes:
        name: The registered tower that has the same parameters, without what PE-Core has after its blocks.
        core: The registered PE-Core that it began as, whose blocks have no layer scale.
        layers: Its blocks.
        heads: Its attention heads, which timm takes from the name.
        mlp_ratio: The ratio of its MLPs, likewise.
        cls_token: Whether it has a class token, likewise.
    """

    name: str
    core: str
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    cls_token: bool = True


TOWERS: Mapping[str, Tower] = {
    "vit_pe_core_large_patch14_336": Tower(name="pe_lang_l14_448", core="pe_core_l14_336", layers=23, heads=16),
    "vit_pe_lang_large_patch14_448": Tower(name="pe_lang_l14_448", core="pe_core_l14_336", layers=23, heads=16),
    "vit_pe_core_gigantic_patch14_448": Tower(
        name="pe_lang_g14_448", core="pe_core_g14_448", layers=47, heads=16, mlp_ratio=8960 / 1536, cls_token=False
    ),
    "vit_pe_lang_gigantic_patch14_448": Tower(
        name="pe_lang_g14_448", core="pe_core_g14_448", layers=47, heads=16, mlp_ratio=8960 / 1536, cls_token=False
    ),
}
"""The towers of published models by the names that transformers gives them."""
RENAMED: Mapping[str, str] = {
    "embed_dim": "width",
    "depth": "layers",
    "num_heads": "heads",
    "init_values": "ls_init_value",
    "class_token": "use_cls_token",
    "use_post_transformer_norm": "use_ln_post",
}
"""timm's words for the keywords of a tower, and ours."""
CORE_AS_LANG: dict[str, Any] = {"image_size": 448, "global_pool": "", "use_ln_post": False}
"""Keywords of a PE-Core that make it a PE-Lang: an image of this size, and no norm and no pooling after the blocks."""
LEFT_OUT = ("global_pool", "ref_feat_shape")
"""Keywords of timm that say what a tower does anyway: it pools nothing, and its rotary positions are those of its own
size."""


def build(config: Any, **kwargs: Any) -> PerceptionLM:
    """Build a model with random weights. Under ``torch.device("meta")`` it takes no memory.

    Args:
        config: Keywords of transformers' PerceptionLMConfig as a dict, such a config itself, or the ``model`` section
            of the original's params.json, alone or under the key ``meta_model``.
        **kwargs: Further keywords of `perception_lm`.

    Raises:
        InputError: The configuration is of another kind, or lacks something.
        MissingDependency: The extra plm-core[lm] or the package of the tower is not installed.
        UnknownName: There is no such vision tower.
    """
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise InputError(f"config is a {type(config).__name__}; a dict of keywords is expected")
    config = config.get(OFFICIAL, config)
    if "vision_model" in config:
        config = from_official(config)
    lacking = [key for key in ("vision_config", "text_config") if not config.get(key)]
    if lacking:
        raise InputError(
            f"config has no {' and no '.join(lacking)}; keywords of PerceptionLMConfig or the original's are expected"
        )
    known = {key: value for key, value in config.items() if key in KEYWORDS}
    return perception_lm(**known, **kwargs)


KEYWORDS = (
    "vision_config",
    "text_config",
    "vision_use_cls_token",
    "projector_pooling_ratio",
    "image_token_id",
    "video_token_id",
    "tie_word_embeddings",
)


def perception_lm(
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    vision_use_cls_token: bool = True,
    projector_pooling_ratio: int = 1,
    image_token_id: int = IMAGE_TOKEN_ID,
    video_token_id: int = VIDEO_TOKEN_ID,
    tie_word_embeddings: bool | None = None,
    *,
    img_size: int | Sequence[int] | None = None,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    num_classes: int = 0,
) -> PerceptionLM:
    """Build a model from keywords of transformers' PerceptionLMConfig.

    Args:
        vision_config: The vision tower: ``architecture``, the name of a model of timm or of a plug-in, and
            ``model_args``, its keywords. timm's names of the Perception Encoder stand for ours, with timm's keywords.
        text_config: The decoder: ``model_type``, and the keywords of that model's configuration in transformers.
        vision_use_cls_token: Whether the tower has a class token. Only a tower of the Perception Encoder needs it said.
        projector_pooling_ratio: Patches per visual token along each side.
        image_token_id: The placeholder of images.
        video_token_id: The placeholder of videos.
        tie_word_embeddings: Whether the head shares the embedding's weight; None for what ``text_config`` says.
        img_size: Side of a chunk in pixels; None for what ``vision_config`` says.
        in_chans: Number of channels of the images.
        drop_path_rate: Rate of dropped branches in the last block of the tower, which rises to it by depth.
        num_classes: 0; others are refused.

    Raises:
        InputError: See `build`.
        MissingDependency: See `build`.
    """
    if num_classes:
        raise InputError(f"num_classes is {num_classes}; a language model has no classes")
    try:
        from transformers import AutoModelForCausalLM, PerceptionLMConfig
    except ModuleNotFoundError as e:
        raise MissingDependency("a language model needs transformers: install plm-core[lm]") from e
    config = PerceptionLMConfig(
        vision_config={"model_type": "timm_wrapper", **vision_config},
        text_config={"model_type": "llama", **text_config},
        vision_use_cls_token=vision_use_cls_token,
        projector_pooling_ratio=projector_pooling_ratio,
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        tie_word_embeddings=tie_word_embeddings,
    )
    config.text_config.tie_word_embeddings = bool(config.tie_word_embeddings)
    options = {"in_chans": in_chans, "drop_path_rate": drop_path_rate}
    tower = create_tower(vision_config, vision_use_cls_token, **options | ({"img_size": img_size} if img_size else {}))
    decoder = AutoModelForCausalLM.from_config(config.text_config)
    return PerceptionLM(tower, decoder, projector_pooling_ratio, image_token_id, video_token_id, config)


def create_tower(vision_config: Mapping[str, Any], cls_token: bool = True, **kwargs: Any) -> nn.Module:
    """Create a vision tower with random weights by the ``vision_config`` of transformers.

    Args:
        vision_config: See `perception_lm`.
        cls_token: Whether a tower of the Perception Encoder has a class token.
        **kwargs: Keywords of ``create_model`` that replace those of the configuration.
    """
    name: str = vision_config.get("architecture", "")
    arguments = dict(vision_config.get("model_args") or {})
    tower = TOWERS.get(name)
    if tower is None:
        return create_model(name, num_classes=0, **(arguments | kwargs))
    given: dict[str, Any] = {RENAMED.get(key, key): value for key, value in arguments.items() if key not in LEFT_OUT}
    own = {"heads": tower.heads, "mlp_ratio": tower.mlp_ratio, "use_cls_token": cls_token, "num_classes": 0}
    keywords = own | given | kwargs
    if keywords.get("ls_init_value") is None:  # timm leaves out keywords that are None, and PE-Lang has layer scale
        return create_model(tower.core, **(CORE_AS_LANG | {"layers": tower.layers} | keywords))
    return create_model(tower.name, **keywords)


def from_official(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of `perception_lm` for the ``model`` section of the original's params.json."""
    vision = model["vision_model"]
    dim, heads = model["dim"], model["n_heads"]
    width, layers = vision["width"], vision["layers"]
    side = vision["image_size"] // vision["patch_size"]
    text = {
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": model["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": model.get("n_kv_heads") or heads,
        "head_dim": model.get("head_dim") or dim // heads,
        "intermediate_size": hidden_size(dim, model.get("ffn_dim_multiplier"), model.get("multiple_of", 256)),
        "vocab_size": model["vocab_size"],
        "rms_norm_eps": model.get("norm_eps", 1e-5),
        "rope_parameters": _rope(model),
        "max_position_embeddings": model.get("max_seqlen", 1024),
        "tie_word_embeddings": bool(model.get("weight_tying", False)),
    }
    arguments = {
        "patch_size": vision["patch_size"],
        "embed_dim": width,
        "depth": layers,
        "num_heads": vision["heads"],
        "mlp_ratio": vision.get("mlp_ratio", 4.0),
        "img_size": [vision["image_size"]] * 2,
        "global_pool": "",
        "use_post_transformer_norm": bool(vision.get("use_ln_post", False)),
        "init_values": vision.get("ls_init_value"),
        "ref_feat_shape": [side, side],
    }
    cls_token = bool(vision.get("use_cls_token", False))
    name = "vit_pe_core_large_patch14_336" if cls_token else "vit_pe_core_gigantic_patch14_448"
    return {
        "vision_config": {"architecture": name, "model_args": arguments},
        "text_config": text,
        "vision_use_cls_token": cls_token,
        "projector_pooling_ratio": model.get("pooling_ratio", 1),
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def _rope(model: Mapping[str, Any]) -> dict[str, Any]:
    theta = {"rope_theta": float(model.get("rope_theta", 10000.0))}
    factor = model.get("rope_scale_factor") or 1
    if factor == 1:
        return {"rope_type": "default", **theta}
    return {
        "rope_type": "llama3",
        **theta,
        "factor": float(factor),
        "low_freq_factor": float(model.get("low_freq_factor", 1)),
        "high_freq_factor": float(model.get("high_freq_factor", 4)),
        "original_max_position_embeddings": model.get("old_context_len", 8192),
    }


def hidden_size(dim: int, multiplier: float | None, multiple_of: int) -> int:
    """Return the hidden width of a decoder's MLPs by the original's rule.

    Example:
        >>> hidden_size(2048, 1.5, 256), hidden_size(4096, 1.3, 1024)
        (8192, 14336)
    """
    hidden = int(2 * (4 * dim) / 3)
    hidden = hidden if multiplier is None else int(multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)
