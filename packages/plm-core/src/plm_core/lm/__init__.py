"""The Perception Language Model (arXiv 2504.13180): a vision encoder, a projector and a language model of transformers.

    model = plm_core.lm.build(config)            # transformers' PerceptionLMConfig, or the original's params.json
    plm_core.weights.load(model, "facebook/Perception-LM-1B")

Everything here needs the extra ``plm-core[lm]`` and is imported when it is first used.

- ``configs``: the published sizes as data.
- ``vision``: the vision tower, the projector and the pooling.
- ``model``: `PerceptionLM`, its forward pass and its generation.
- ``builders``: `build`, from a configuration.
- ``layouts``: the tensor names of transformers and of the original.
- ``blocks``: the way of transforms into the tower.
- ``official``: the original's training step.
"""

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.lm.builders import build
    from plm_core.lm.model import PerceptionLM
    from plm_core.lm.official import training_loss

__all__ = ["PerceptionLM", "build", "training_loss"]

__getattr__, __dir__ = attributes(
    __name__,
    "plm-core",
    {
        "PerceptionLM": "plm_core.lm.model",
        "build": "plm_core.lm.builders",
        "training_loss": "plm_core.lm.official",
        **dict.fromkeys(("blocks", "builders", "configs", "layouts", "model", "official", "vision"), ""),
    },
)
