"""The synthetic data engine: captions of images and videos, and questions about them, that models write.

scenes.py       `split`: a video as clips of about 30 seconds with key frames
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.lm.engine.scenes import Scene, SceneSettings, split

__all__ = ["Scene", "SceneSettings", "split"]

__getattr__, __dir__ = attributes(
    __name__, "plm-core", dict.fromkeys(("Scene", "SceneSettings", "split"), "plm_core.lm.engine.scenes")
)
