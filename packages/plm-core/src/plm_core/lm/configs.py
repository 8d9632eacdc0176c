"""The published sizes as data, in the terms of transformers' PerceptionLMConfig (arXiv 2504.13180, tables 3 and 19)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

PAPER = "arXiv 2504.13180"
LICENSE = "Apache-2.0"
"""The license of the code."""
WEIGHTS_LICENSE = "fair-noncommercial-research-license"
"""The license of the published weights. It is no SPDX identifier, but the Hub's name for it."""
IMAGE_SIZE = 448
MEAN = STD = (0.5, 0.5, 0.5)
MAX_LENGTH = 11520
"""Tokens of a conversation, visual ones too, that the published models were trained with."""
MAX_TILES, MAX_FRAMES = 36, 32


@dataclass(frozen=True, kw_only=True)
class Size:
    """A published size.

    Attributes:
        repo: Name of the repository on the Hub.
        decoder: Name of the language model that the training started from, on the Hub.
        tower: Name of the registered vision tower, which is PE-Core's without its last blocks.
        params: Number of parameters.
        vision_params: Number of parameters of the tower.
        config: Keywords of `plm_core.lm.builders.perception_lm`.
        metrics: Published scores.
    """

    repo: str
    decoder: str
    tower: str
    params: int
    vision_params: int
    config: Config
    metrics: Mapping[str, float]


def _llama(dim: int, layers: int, heads: int, kv_heads: int, hidden: int, tied: bool, scaled: bool) -> Config:
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, **scaling} if scaled else {"rope_type": "default"}
    return {
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": dim // heads,
        "intermediate_size": hidden,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 500000.0, **rope},
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": tied,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128009],
        "pad_token_id": 128001,
    }


def _vision(architecture: str, width: int, depth: int) -> Config:
    return {
        "model_type": "timm_wrapper",
        "architecture": architecture,
        "model_args": {
            "embed_dim": width,
            "depth": depth,
            "img_size": [IMAGE_SIZE, IMAGE_SIZE],
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": [32, 32],
        },
    }


def _config(vision: Config, text: Config, cls_token: bool) -> Config:
    return {
        "vision_config": vision,
        "text_config": text,
        "vision_use_cls_token": cls_token,
        "projector_pooling_ratio": 2,
        "image_token_id": 128002,
        "video_token_id": 128003,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


_LARGE = _vision("vit_pe_core_large_patch14_336", 1024, 23)
_GIGANTIC = _vision("vit_pe_core_gigantic_patch14_448", 1536, 47)
AVERAGE, DOCVQA, VIDEOMME = "PLM-VideoBench (published)", "DocVQA (published)", "VideoMME (published)"

SIZES: dict[str, Size] = {
    "1b": Size(
        repo="facebook/Perception-LM-1B",
        decoder="meta-llama/Llama-3.2-1B-Instruct",
        tower="pe_lang_l14_448",
        params=1_533_524_992,
        vision_params=291_415_040,
        config=_config(_LARGE, _llama(2048, 16, 32, 8, 8192, tied=True, scaled=True), cls_token=True),
        metrics={AVERAGE: 49.4, DOCVQA: 90.7, VIDEOMME: 49.2},
    ),
    "3b": Size(
        repo="facebook/Perception-LM-3B",
        decoder="meta-llama/Llama-3.2-3B-Instruct",
        tower="pe_lang_l14_448",
        params=3_516_753_920,
        vision_params=291_415_040,
        config=_config(_LARGE, _llama(3072, 28, 24, 8, 8192, tied=True, scaled=True), cls_token=True),
        metrics={AVERAGE: 53.0, DOCVQA: 93.8, VIDEOMME: 54.9},
    ),
    "8b": Size(
        repo="facebook/Perception-LM-8B",
        decoder="meta-llama/Llama-3.1-8B-Instruct",
        tower="pe_lang_g14_448",
        params=9_794_260_736,
        vision_params=1_740_922_624,
        # the published training configurations scale no rotary positions here, although Llama 3.1 does
        config=_config(_GIGANTIC, _llama(4096, 32, 32, 8, 14336, tied=False, scaled=False), cls_token=False),
        metrics={AVERAGE: 55.6, DOCVQA: 94.6, VIDEOMME: 58.3},
    ),
}


MICRO_SIZE, MICRO_FRAMES, MICRO_LENGTH = 48, 8, 768
"""Side of a chunk, frames of a clip and greatest length of our micro model."""
MICRO_TOWER = "pe_micro_spatial"
"""The micro model of pe-encoder that its tower starts from."""
MICRO_TOKENS = 9
"""Visual tokens of a chunk: 6 x 6 patches, two of them per token along each side."""
MICRO_VOCABULARY = 111
"""The words of the world of shapes, and the special tokens."""

MICRO: Config = {
    "vision_config": {"architecture": MICRO_TOWER, "model_args": {"img_size": [MICRO_SIZE] * 2}},
    "text_config": {
        "model_type": "llama",
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 24,
        "intermediate_size": 256,
        "vocab_size": MICRO_VOCABULARY,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "max_position_embeddings": MICRO_LENGTH,
        "tie_word_embeddings": True,
        "bos_token_id": 103,
        "eos_token_id": 109,
        "pad_token_id": 104,
    },
    "projector_pooling_ratio": 2,
    "image_token_id": 105,
    "video_token_id": 106,
    "tie_word_embeddings": True,
}
"""Our micro model."""
