"""The trainings of the paper for both towers: contrastive on images, on videos, and by distillation (section 2).

    result = train_contrastive(clip, data, CONTRASTIVE["default"])     # a CLIP, on a dataset of (image, caption)

The settings are data, and the loop is `plm_core.training.fit`.

- ``tables``: the configurations, with those of the paper.
- ``losses``: the contrastive loss and the divergence from a teacher, over the batch of all processes.
- ``towers``: both towers as one module, as they are trained.
- ``masking``: the regularisation by masked copies of some images.
- ``resolution``: stages of a training with rising sizes of the images.
- ``pairs``: captions as data for trainings.
- ``scoring``: retrieval among the held-out pairs.
- ``contrastive``, ``video``, ``distillation``: the recipes of ``plm train`` for both towers.
- ``spatial``, ``spatial_tables``, ``spatial_teachers``: the alignment of a vision tower for dense tasks (section 5).
"""
