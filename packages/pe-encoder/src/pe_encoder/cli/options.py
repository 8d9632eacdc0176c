"""Options that several commands share, and what they do with their model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

MICRO = "pe_micro_clip"
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Name of a model with a text tower, such as pe_clip_b16_224, or folder of one. The default is a tiny one "
        "that is shipped and knows coloured shapes only.",
    ),
]


def text_model(name: str, device: str, needed_for: str, **options: Any) -> Any:
    """Create a model with a text tower and its weights, in eval mode.

    Args:
        name: Name of the model, with or without tag, or folder of one.
        device: Its device.
        needed_for: What needs the text tower, for the error.
        **options: Keywords of `plm_core.create_model`.

    Raises:
        NotSupported: The model has no text tower. If its name alone says so, nothing is downloaded.
    """
    from plm_core.errors import NotSupported
    from plm_core.hookspecs import Model
    from plm_core.models import create_model
    from plm_core.registry import registry
    from plm_core.utils.devices import pick_device

    declared = registry().all(Model).get(name.partition(".")[0])
    created: Any = None
    if not _is_of_timm(name) if declared is None else declared.declaration.task.startswith("zero-shot"):
        created = create_model(name, pretrained=True, **options).eval()
    if not (hasattr(created, "encode_text") and hasattr(created, "tokenizer")):
        raise NotSupported(f"model {name!r} has no text tower, which {needed_for} needs: {why_not(name)}")
    return created.to(pick_device(device))


def _is_of_timm(name: str) -> bool:
    """Return whether a name that no plug-in declares is that of a model of timm, none of which has a text tower."""
    import timm

    return not {"/", ":"} & set(name) and bool(timm.is_model(name.partition(".")[0]))


def why_not(name: str) -> str:
    """Say why a model has no text tower, and which has one."""
    base = name.partition(".")[0]
    if base.startswith(("pe_lang_", "pe_spatial_")):
        return (
            "the alignment of PE-Lang and PE-Spatial has changed the last layers, so that no text tower fits to their "
            "output; pe_clip_* of PE-Core has one"
        )
    if base.startswith("pe_core_"):
        return f"it is the vision tower of {base.replace('core', 'clip')}, which has both"
    return "pe_clip_* have one"


def say_unknown(model: Any, name: str, texts: list[str]) -> None:
    """Say which words of the texts a model with a small vocabulary does not know."""
    if model.vocabulary is None:
        return
    tokenize = model.tokenizer()
    words = {word.strip(".,!?") for text in texts for word in text.lower().split()}
    unknown = sorted(word for word in words if word and 2 in list(tokenize.encode(word)))
    if unknown:
        typer.echo(
            f"note: {name} knows {len(model.vocabulary)} words, and not {', '.join(unknown)}; for photographs take "
            "--model pe_clip_b16_224",
            err=True,
        )
