"""Models by name that come from other libraries than timm: their creation, their weights, their preprocessing.

- ``torchvision``: ``torchvision:resnet50``, with the weights that torchvision lists for it.
- ``transformers``: ``transformers:org/name``, a repository of the Hugging Face Hub or a folder.

Each is what the name stands for in its own library. `plm_core.create_model` and `plm_core.transform_for` call these.
Importing this imports neither library.
"""
