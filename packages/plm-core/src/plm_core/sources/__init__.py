"""Models by name: their creation, their weights, and the preprocessing of those of other libraries than timm.

- ``timm``: the names of timm's registry, with those of our plug-ins; folders and repositories with timm's interface.
- ``torchvision``: ``torchvision:resnet50``, with the weights that torchvision lists for it.
- ``transformers``: ``transformers:org/name``, a repository of the Hugging Face Hub or a folder.
- ``diffusers``: ``diffusers:org/name``, a UNet in a repository of the Hugging Face Hub or a folder, for ``plm bench``.

Each is what the name stands for in its own library. `plm_core.create_model` and `plm_core.transform_for` call these,
but for diffusers: its models turn noise and text into noise, and no other command has use for them.
Importing this imports none of these libraries.
"""
