"""Activations that the linear layer before them can compute, in the MLPs whose forward is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from plm_core.blocks import Swapped, forward_class, original_class
from plm_core.packing.layers import has_changes
from plm_core.packing.operators import ACTIVATIONS

# The class of an MLP, and in it the linear layer and the activation that its forward calls one after the other.
_KNOWN = {
    "timm.layers.mlp:Mlp": ("fc1", "act"),
    "timm.layers.mlp:GlobalResponseNormMlp": ("fc1", "act"),
    "timm.layers.mlp:SwiGLU": ("fc1_g", "act"),
    "torchvision.ops.misc:MLP": ("0", "1"),
    "torchvision.models.vision_transformer:MLPBlock": ("0", "1"),
    "torchvision.models.convnext:CNBlock": ("block.3", "block.4"),
    "transformers.models.clip.modeling_clip:CLIPMLP": ("fc1", "activation_fn"),
    "transformers.models.deit.modeling_deit:DeiTMLP": ("fc1", "activation_fn"),
    "transformers.models.dinov2.modeling_dinov2:Dinov2MLP": ("fc1", "activation_fn"),
    "transformers.models.dinov3_vit.modeling_dinov3_vit:DINOv3ViTMLP": ("up_proj", "act_fn"),
    "transformers.models.siglip.modeling_siglip:SiglipMLP": ("fc1", "activation_fn"),
    "transformers.models.vit.modeling_vit:ViTMLP": ("fc1", "activation_fn"),
}


class Absorbed(Swapped):
    """A mixin for the class of an activation that the linear layer before it computes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, to which the activation is applied already."""
        return x


def pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, str]]:
    """Yield the linear layers that can compute the activation after them: the layer, the activation, its name.

    A layer or an activation that is used in several places is left out, and so is an MLP with a forward of its own.
    """
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for module in model.modules():
        names = next(filter(None, map(_KNOWN.get, _kinds(module))), ())
        if not names or "forward" in module.__dict__:
            continue
        parts = dict(module.named_modules())
        layer, activation = (parts.get(name) for name in names)
        if layer is not None and activation is not None and uses[id(activation)] == uses[id(layer)] == 1:
            name = _name_of(activation)
            if name:
                yield layer, activation, name


def _kinds(module: nn.Module) -> Iterator[str]:
    """Yield the names of the class of a module and of its bases, up to the one that defines its forward."""
    for kind in original_class(module).__mro__:
        yield f"{kind.__module__}:{kind.__qualname__}"
        if kind is forward_class(module):
            return


@torch.no_grad()
def _name_of(activation: nn.Module) -> str:
    """Return the name of what a module computes, which its values tell; an empty text if it is none of ours."""
    if has_changes(activation) or any(True for _ in activation.parameters()):
        return ""
    x = torch.linspace(-6, 6, 97)
    y = activation(x.clone())
    return next((name for name, known in ACTIVATIONS.items() if torch.allclose(y, known(x), atol=1e-6)), "")
