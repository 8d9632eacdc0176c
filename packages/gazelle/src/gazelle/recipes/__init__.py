"""The trainings of Gaze-LLE, on GazeFollow and then on VideoAttentionTarget (arXiv 2412.09586).

    result = train_gaze(model, PersonSamples(annotations, preprocess), FOLLOW["paper"])

- ``tables``: the settings as data, `FOLLOW` and `VIDEO`.
- ``training``: `train_gaze`, its loss, and `Looker`.
- ``starting``: the weights that a training begins with.
- ``following``: the recipes of ``plm train``.
"""

from __future__ import annotations

from gazelle.recipes.tables import FOLLOW, VIDEO, EpochRecipe, GazeConfig
from gazelle.recipes.training import Looker, gaze_loss, train_gaze

__all__ = ["FOLLOW", "VIDEO", "EpochRecipe", "GazeConfig", "Looker", "gaze_loss", "train_gaze"]
