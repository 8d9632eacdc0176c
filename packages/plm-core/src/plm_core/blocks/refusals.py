"""Families of other packages that have no block adapter, with the reason. Nothing is imported for it."""

from __future__ import annotations

from torch import nn

from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry
from plm_core.utils.references import class_paths

GRID = "its blocks pool or convolve over the grid of tokens, so every token is needed in its place"
WINDOWS = "it attends inside windows of its grid of tokens, so every token is needed in its place"
PADDING = "it pads images of several sizes to one number of patches, and its masks cannot follow merged tokens"
MASKING = "it hides random patches, which its decoder tells apart by the number and order of the tokens"

REASONS: dict[str, tuple[str, ...]] = {
    GRID: (
        "timm.models.mvitv2:MultiScaleVit",
        "timm.models.pvt_v2:PyramidVisionTransformerV2",
        "torchvision.models.video.mvit:MViT",
        "transformers.models.pvt.modeling_pvt:PvtModel",
        "transformers.models.pvt_v2.modeling_pvt_v2:PvtV2Model",
        "transformers.models.segformer.modeling_segformer:SegformerModel",
    ),
    WINDOWS: (
        "hiera.hieradet:HieraDet",
        "hiera.vitdet:ViTDet",
        "timm.models.maxxvit:MaxxVit",
        "timm.models.vision_transformer_sam:VisionTransformerSAM",
        "torchvision.models.maxvit:MaxVit",
        "transformers.models.sam.modeling_sam:SamVisionEncoder",
    ),
    MASKING: ("transformers.models.vit_mae.modeling_vit_mae:ViTMAEModel",),
    PADDING: (
        "timm.models.naflexvit:NaFlexVit",
        "transformers.models.siglip2.modeling_siglip2:Siglip2VisionModel",
    ),
}
_REASON_OF = {path: reason for reason, paths in REASONS.items() for path in paths}


def reason_of(model: nn.Module) -> str:
    """Return why a model has no view of its blocks, and models that have one."""
    name = class_paths(model)[0].replace(":", ".")
    for part in model.modules():
        for path in class_paths(part):
            if path in _REASON_OF:
                inside = "" if part is model else f" of {type(part).__name__} inside it"
                return (
                    f"no block adapter for {name}: transforms cannot reach the blocks{inside}, since {_REASON_OF[path]}"
                )
    examples = sorted({adapter.example[1].get("model", adapter.example[0]) for adapter in _with_view()})
    return (
        f"no block adapter for {name} nor for a model inside it; the package that owns a model can declare one. "
        f"Some of the models that have one: {', '.join(examples)}"
    )


def _with_view() -> list[BlockAdapter]:
    """Return the adapters whose blocks suit every transform: ours without windows. Those of others may pool."""
    own = [adapter for adapter in registry().declared(BlockAdapter) if adapter.view.startswith("plm_core.adapters.")]
    return [adapter for adapter in own if not adapter.view.startswith("plm_core.adapters.windowed:")]
