"""UNets of diffusers by name: a repository of the Hugging Face Hub, or a folder. ``plm bench`` takes them.

Only safetensors are read, and no code of a repository is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import InputError, NotSupported, WeightsError
from plm_core.hub import HubFile, fetch_folder, one_line
from plm_core.model_config import read_json
from plm_core.utils.files import existing_folder
from plm_core.utils.requirements import check_needs
from plm_core.utils.text import first_line, shown

PREFIX = "diffusers:"
UNET = "UNet2DConditionModel"
FOLDERS = ("", "unet")
"""The folders in which a model is looked for: a folder of its own, or the one of a pipeline."""
WEIGHTS = tuple(
    f"diffusion_pytorch_model{end}" for end in (".safetensors", ".safetensors.index.json", "-*.safetensors")
)
"""The files of weights that diffusers reads. Beside them lie others, such as those in half precision."""
TIMESTEP = 500
TEXT = 77
"""Number of text tokens, that of CLIP's text towers."""
SIDE = 64
"""Side of the latents of a UNet whose configuration has none."""


class Denoiser(nn.Module):
    """A UNet with random conditioning for a batch: latents [B, C, H, W] -> the predicted noise, one step of denoising.

    Attributes:
        unet: The UNet.
    """

    def __init__(self, unet: Any, batch_size: int) -> None:
        super().__init__()
        self.unet = unet
        self.arguments: dict[str, str] = {}
        g = torch.Generator().manual_seed(0)
        for argument, shape in conditioning(unet.config).items():
            buffer = f"given_{argument}"
            self.register_buffer(buffer, torch.rand(batch_size, *shape, generator=g), persistent=False)
            self.arguments[argument] = buffer

    def forward(self, latents: Tensor) -> Tensor:
        """Predict the noise in latents."""
        given = {argument: getattr(self, buffer) for argument, buffer in self.arguments.items()}
        added = {argument: given.pop(argument) for argument in ("text_embeds", "time_ids") if argument in given}
        if "class_labels" in given and self.unet.config.class_embed_type is None:
            given["class_labels"] = given["class_labels"].long()
        noise: Tensor = self.unet(latents, TIMESTEP, **given, **({"added_cond_kwargs": added} if added else {})).sample
        return noise

    def random_latents(self, batch_size: int, size: int | None = None) -> Tensor:
        """Return random latents [B, C, H, W], of the side ``size`` or of the UNet's own."""
        own = self.unet.config.sample_size or SIDE
        sides = (size, size) if size is not None else (own, own) if isinstance(own, int) else tuple(own)
        shape = (batch_size, self.unet.config.in_channels, *sides)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def conditioning(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the arguments of a UNet beside latents and timestep, with their shapes for one image.

    Args:
        config: The configuration of a UNet2DConditionModel.

    Raises:
        NotSupported: The UNet is conditioned on something else than text, the sizes of images and classes.
    """
    width = config.encoder_hid_dim if config.encoder_hid_dim_type == "text_proj" else config.cross_attention_dim
    kinds = {
        "cross_attention_dim": isinstance(width, int),
        "encoder_hid_dim_type": config.encoder_hid_dim_type in (None, "text_proj"),
        "addition_embed_type": config.addition_embed_type in (None, "text_time"),
        "class_embed_type": config.class_embed_type in (None, "timestep"),
    }
    for field, known in kinds.items():
        if not known:
            raise NotSupported(f"a {UNET} with {field}={config[field]!r}: its input is not known here")
    shapes: dict[str, tuple[int, ...]] = {"encoder_hidden_states": (TEXT, width)}
    if config.addition_embed_type == "text_time":  # six numbers, and the rest is the pooled text
        text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        shapes |= {"text_embeds": (text,), "time_ids": (6,)}
    if config.class_embed_type == "timestep" or config.num_class_embeds is not None:
        shapes["class_labels"] = ()
    return shapes


def create(text: str, pretrained: bool = False) -> nn.Module:
    """Create a UNet of diffusers.

    Args:
        text: ``org/name[@revision]`` of the Hub, or the path of a folder that ``save_pretrained`` wrote, of a
            UNet2DConditionModel or of a pipeline that has one as its ``unet``.
        pretrained: Load the weights, in float32. Otherwise they are random, and only the configuration is needed.

    Raises:
        MissingDependency: diffusers is not installed.
        InputError: ``text`` is neither a repository nor a folder.
        NotSupported: It is another kind of model.
        WeightsError: The model cannot be obtained, has no safetensors, or does not fit its configuration.
    """
    name = f"{PREFIX}{shown(text)}"
    check_needs(f"model {name!r}", ["diffusers>=0.36"])
    folder = _folder(name, text, pretrained)
    try:
        config = read_json(folder / "config.json")
    except ValueError as e:
        raise WeightsError(f"cannot get {name}: its config.json {e}") from e
    if config.get("_class_name") != UNET:
        raise NotSupported(
            f"{name} is a {shown(str(config.get('_class_name')))}; only a {UNET} has an input that is known"
        )
    import diffusers

    cls = getattr(diffusers, UNET)
    try:
        with one_line(f"cannot get {name}"):
            unet: nn.Module = _with_weights(cls, folder) if pretrained else cls.from_config(config)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as e:
        raise WeightsError(f"cannot get {name}: {first_line(e)}") from e
    return unet


def _with_weights(cls: Any, folder: Path) -> nn.Module:
    """Load a model with its weights, all of which must be there and fit. diffusers leaves those that are not random."""
    unet, report = cls.from_pretrained(
        folder,
        use_safetensors=True,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,
        output_loading_info=True,
    )
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"]), *report["unexpected_keys"]]
    if wrong:
        raise ValueError(f"its weights do not fit its configuration: {', '.join(sorted(wrong)[:5])}")
    return unet


def _folder(name: str, text: str, pretrained: bool) -> Path:
    """Return the folder that has the config.json of the model, downloaded if the text names a repository."""
    root = existing_folder(text) if text else None
    if root is None:
        if (repo := HubFile.parse(text)) is None:
            raise InputError(f"model {name!r} is neither a folder nor of the form 'org/name[@revision]'")
        files = ("config.json", *(WEIGHTS if pretrained else ()))
        root = fetch_folder(repo, [str(Path(folder, file)) for folder in FOLDERS for file in files])
    for folder in FOLDERS:
        if (root / folder / "config.json").is_file():
            return root / folder
    raise WeightsError(f"cannot get {name}: it has no config.json, and no unet/config.json as pipelines have")
