"""Sets of templates by name, into which the names of classes are put for zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plm_core import InputError, MissingDependency
from plm_core.utils.near_misses import miss

SETS: Mapping[str, str] = {
    "plain": "the text as it is",
    "photo": "a photo of a ...",
    "imagenet": "the 80 templates that CLIP has for ImageNet",
    "imagenet-simple": "the 7 of them that do best on their own",
    "kinetics": "28 templates for actions in videos",
}
"""The names of the sets, and what they hold."""

_MEDIA = ("photo", "video", "example", "demonstration")
_ACTORS = ("", "a person ", "a person using ", "a person doing ", "a person during ", "a person performing ",
           "a person practicing ")  # fmt: skip

Templates = str | Sequence[str]


def templates_of(templates: Templates) -> tuple[str, ...]:
    """Return templates, each with ``{}`` for the name of a class.

    Args:
        templates: The name of one of `SETS`, a template, or several.

    Raises:
        InputError: There is no such set, or a template has not one ``{}``.
        MissingDependency: open_clip, which keeps the templates for ImageNet, is not installed: ``pe-encoder[text]``.

    Example:
        >>> templates_of("kinetics")[:2]
        ('a photo of {}.', 'a photo of a person {}.')
    """
    if isinstance(templates, str):
        if templates in SETS:
            return _set(templates)
        if "{}" not in templates:
            raise InputError(
                f"templates: {miss('set of templates', templates, SETS)}; or a text with {{}} for the name"
            )
        templates = (templates,)
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError(f"template {template!r} is not allowed: a text with one {{}} for the name is")
    if not templates:
        raise InputError("templates is empty; at least one is needed")
    return tuple(templates)


def _set(name: str) -> tuple[str, ...]:
    if name == "plain":
        return ("{}",)
    if name == "photo":
        return ("a photo of a {}.",)
    if name == "kinetics":
        return tuple(f"a {medium} of {actor}{{}}." for medium in _MEDIA for actor in _ACTORS)
    try:
        from open_clip import zero_shot_metadata
    except ModuleNotFoundError as e:
        raise MissingDependency(f"templates {name!r} are kept by open_clip: install pe-encoder[text]") from e
    kept = {"imagenet": "OPENAI_IMAGENET_TEMPLATES", "imagenet-simple": "SIMPLE_IMAGENET_TEMPLATES"}[name]
    return tuple(template("{}") for template in getattr(zero_shot_metadata, kept))
