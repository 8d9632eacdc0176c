"""Runs of declared recipes: from a source of data to a model folder, as ``plm train`` does.

    trained = train("finetune", "photos/", "runs/photos", model="resnet18")
    model = plm_core.create_model("runs/photos", pretrained=True)

- ``running``: `train`, which runs a recipe by name.
- ``job``: `Job`, which the function of a recipe gets, and `Trained`, which it returns.
- ``request``: what was asked for, written with the first checkpoint. `begin` checks a resumed training.
- ``folder``: the model folder with the record and the curve of its training.
- ``classification``: the recipe for classifiers.
"""

from plm_core.runs.job import Job, Trained
from plm_core.runs.request import begin
from plm_core.runs.running import train

__all__ = ["Job", "Trained", "begin", "train"]
