"""Models by name: their creation, their weights, and the preprocessing of those of other libraries than timm.

- ``timm``: the names of timm's registry, with those of our plug-ins; folders and repositories with timm's interface.
- ``torchvision``: ``torchvision:resnet50``, with the weights that torchvision lists for it.
- ``transformers``: ``transformers:org/name``, a repository of the Hugging Face Hub or a folder.

Each is what the name stands for in its own library. `plm_core.create_model` and `plm_core.transform_for` call these.
Importing this imports none of these libraries.
"""
