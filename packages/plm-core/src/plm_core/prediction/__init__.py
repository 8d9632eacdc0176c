"""The predictions of trained models for files: classes of images, classes of videos over time, or objects in images.

    from plm_core import create_model
    from plm_core.prediction import predict

    model = create_model("hiera_micro_digits", pretrained=True).eval()
    for result in predict(model, ["digit.png"], top=3):
        print(result.path, [(c.label, c.probability) for c in result.classes])

- ``run``: `predict`, which runs a model on files.
- ``tasks``: what a model predicts, and models by name.
- ``files``: the files at paths and in folders.
- ``labels``: the names of a model's classes.
- ``classification``, ``clips``, ``detection``: the three tasks.
- ``evaluation``: `evaluate`, the accuracy on labelled images or videos.
- ``results``: what comes out, as plain data.
- ``masks``: masks as COCO's run lengths.
- ``drawing``, ``timeline``: pictures with the objects of a detector, and of the classes of a video over time.
- ``tables``, ``outputs``: rows, and the files of a run.
"""

from plm_core.prediction.drawing import draw
from plm_core.prediction.evaluation import Evaluation, evaluate, labelled_data
from plm_core.prediction.files import InputFile, find_files, select_files
from plm_core.prediction.masks import Mask
from plm_core.prediction.results import (
    ClassScore,
    Detection,
    ImageClasses,
    ImageDetections,
    Result,
    VideoClasses,
    Window,
)
from plm_core.prediction.run import THRESHOLD, predict
from plm_core.prediction.tasks import KINDS, Task, task_of, trained_model

__all__ = [
    "KINDS",
    "THRESHOLD",
    "ClassScore",
    "Detection",
    "Evaluation",
    "ImageClasses",
    "ImageDetections",
    "InputFile",
    "Mask",
    "Result",
    "Task",
    "VideoClasses",
    "Window",
    "draw",
    "evaluate",
    "find_files",
    "labelled_data",
    "predict",
    "select_files",
    "task_of",
    "trained_model",
]
