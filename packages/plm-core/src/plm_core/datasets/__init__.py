"""Labelled images from a folder, an npz file or Hugging Face datasets.

    loading.py      `load_dataset`, which finds out what a source is
    labelled.py     `Dataset`, and class numbers from labels of other types
    folder.py       folders of images by class
    npz.py          arrays
    huggingface.py  datasets of the Hugging Face Hub, and those that its library has saved

Images stay encoded until a model needs them. Nothing here imports torch.
"""

from plm_core.datasets.labelled import Dataset
from plm_core.datasets.loading import load_dataset

__all__ = ["Dataset", "load_dataset"]
