"""Figures of matplotlib, which only extras install."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plm_core.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib(needed_by: str, extra: str) -> None:
    """Import matplotlib, or say in one line what needs it and which extra installs it.

    Args:
        needed_by: The subject of the message, such as ``a picture``.
        extra: The extra to install, such as ``plm-core[tour]``.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as e:
        raise MissingDependency(f"{needed_by} needs matplotlib: install {extra}") from e


def figure(needed_by: str, extra: str, **kwargs: Any) -> Figure:
    """Return an empty figure that belongs to no window and to no global state of pyplot.

    Args:
        needed_by: See `require_matplotlib`.
        extra: See `require_matplotlib`.
        **kwargs: Keywords for ``matplotlib.figure.Figure``, such as ``figsize`` in inches.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require_matplotlib(needed_by, extra)
    from matplotlib.figure import Figure

    return Figure(**kwargs)


def label_powers(axes: Any) -> None:
    """Label at most four powers of ten of a logarithmic x axis, as plain numbers, so that no labels overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
