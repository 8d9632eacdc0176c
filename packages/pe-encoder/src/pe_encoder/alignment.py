"""The start of an alignment: PE-Lang and PE-Spatial begin as PE-Core (arXiv 2504.13181, sections 4 and 5).

Both return tokens, so they have neither the norm nor the pool nor the projection of PE-Core, and they may have layer
scale, which PE-Core has not. PE-Lang also drops the last layers: one of L's 24, and three of G's 50.

`start` is all that an alignment needs of this package. The recipe ``pe-spatial`` uses it, and so can a training with a
language model: create a ``pe_lang_*``, start it, and train it with the loss of the next token.
"""

from __future__ import annotations

from pe_encoder.model import VisionTower
from plm_core import InputError


def start(model: VisionTower, core: VisionTower) -> None:
    """Give a tower that returns tokens the weights of a core tower.

    The layers that the model lacks are dropped from the end. Its layer scale, if it has one, stays as it is, and the
    absolute positions are resized to its image size.

    Args:
        model: A tower such as those of ``pe_lang_*`` and ``pe_spatial_*``; it is changed in place.
        core: A tower such as those of ``pe_core_*``.

    Raises:
        InputError: The towers have other widths or patches, or the core has fewer layers.

    Example:
        >>> import timm, torch
        >>> with torch.device("meta"):
        ...     model = timm.create_model("pe_lang_l14_448", global_pool="", drop_path_rate=0.1)
        ...     core = timm.create_model("pe_core_l14_336", pretrained=False)
        >>> start(model, core)
        >>> len(core.blocks), len(model.blocks)
        (24, 23)
    """
    state = {key: model.resample(key, value) for key, value in core.state_dict().items()}
    own = model.state_dict()
    known = {key: value for key, value in state.items() if key in own}
    missing = [key for key in own if key not in known and ".ls" not in key]
    other = [key for key, value in known.items() if value.shape != own[key].shape]
    if missing or other:
        raise InputError(
            f"core is a tower of {len(core.blocks)} layers, width {core.embed_dim} and patch {core.patch_size}, and "
            f"model one of {len(model.blocks)}, {model.embed_dim} and {model.patch_size}; width and patch have to be "
            "the same, and the core needs as many layers"
        )
    model.load_state_dict(own | known)
