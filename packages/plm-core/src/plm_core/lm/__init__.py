"""The Perception Language Model (arXiv 2504.13180): a vision encoder, a projector and a language model of transformers.

    model = plm_core.lm.from_pretrained("facebook/Perception-LM-1B")
    model = plm_core.lm.build(config)   # transformers' PerceptionLMConfig, or the original's params.json

Everything here needs the extra ``plm-core[lm]`` and is imported when it is first used.

- ``configs``: the published sizes as data.
- ``vision``: the vision tower, the projector and the pooling.
- ``model``: `PerceptionLM`, its forward pass and its generation.
- ``builders``: `build`, from a configuration.
- ``layouts``: the tensor names of transformers and of the original.
- ``blocks``: the way of transforms into the tower.
- ``pretrained``: models from and to files.
- ``chat``: conversations as ids, labels and places for media.
- ``tiling``, ``video``, ``regions``, ``media``: images, videos and regions as chunks of pixels.
- ``prompts``, ``processor``: questions as the inputs of a model.
- ``assistant``: `Assistant`, which answers them.
- ``asking``, ``serving``: what ``plm ask`` and ``plm serve`` do.
- ``reduction``: fewer visual tokens per chunk, by merging the most alike.
- ``data``: conversations to train on.
- ``recipes``: the three stages, finetuning and LoRA.
- ``engine``: data that models write, from videos and images.
- ``documents``: packed rows, whose documents do not see one another, and their loss.
- ``official``: the original's training step.
"""

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.lm.assistant import Answer, Assistant, Chat
    from plm_core.lm.builders import build
    from plm_core.lm.media import MediaSettings
    from plm_core.lm.model import PerceptionLM
    from plm_core.lm.official import training_loss
    from plm_core.lm.pretrained import from_pretrained, save_transformers
    from plm_core.lm.processor import Processor
    from plm_core.lm.prompts import Prompt, VideoClip

__all__ = [
    "Answer",
    "Assistant",
    "Chat",
    "MediaSettings",
    "PerceptionLM",
    "Processor",
    "Prompt",
    "VideoClip",
    "build",
    "from_pretrained",
    "save_transformers",
    "training_loss",
]

SUBMODULES = (
    *("asking", "assistant", "blocks", "builders", "chat", "configs", "data", "documents", "engine", "layouts"),
    *("media", "model", "official", "pretrained", "processor", "prompts", "recipes", "reduction", "regions"),
    *("serving", "tiling", "video", "vision"),
)

__getattr__, __dir__ = attributes(
    __name__,
    "plm-core",
    {
        **dict.fromkeys(("Answer", "Assistant", "Chat"), "plm_core.lm.assistant"),
        **dict.fromkeys(("Prompt", "VideoClip"), "plm_core.lm.prompts"),
        "MediaSettings": "plm_core.lm.media",
        "PerceptionLM": "plm_core.lm.model",
        "Processor": "plm_core.lm.processor",
        "build": "plm_core.lm.builders",
        "from_pretrained": "plm_core.lm.pretrained",
        "save_transformers": "plm_core.lm.pretrained",
        "training_loss": "plm_core.lm.official",
        **dict.fromkeys(SUBMODULES, ""),
    },
)
