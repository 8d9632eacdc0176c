"""What a look-up that missed may have meant, and which distribution would provide it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from plm_core.utils.requirements import installed

# Which of the family's distributions provides what, so that a missed look-up can say what to install. Some of these
# distribution names belong to other projects on the public index, hence the hint never says "pip install <name>".
PROVIDERS = (
    ("model", "pe_*", "pe-encoder"),
    ("model", "hiera_*", "hiera"),
    ("model", "hieradet_*", "hiera"),
    ("model", "mae_hiera_*", "hiera"),
    ("model", "vitdet_*", "hiera"),
    ("model", "gazelle_*", "gazelle"),
    ("model", "plm_*", "plm-core[lm]"),
    ("transform", "tome*", "tome"),
    ("transform", "hydra*", "hydra-attn"),
    ("merger", "zipit*", "zipit"),
    ("scorer", "parc*", "parc"),
    ("command", "rank", "parc"),
    ("command", "paint-tokens", "tome"),
)


def miss(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a look-up that found nothing: what is near, and which distribution would provide it."""
    known = sorted(set(known))
    line = f"no {kind} {name!r}"
    provider = next((dist for k, pattern, dist in PROVIDERS if k == kind and fnmatchcase(name, pattern)), None)
    absent = provider is not None and not installed(provider)
    if absent:
        line += f"; {provider} would provide it and is not installed (see 'Install' in the hub's README)"
    suggestions = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if suggestions:
        line += f"; did you mean {' or '.join(map(repr, suggestions))}?"
    elif not absent and 0 < len(known) <= 20:
        line += f"; there are: {', '.join(known)}"
    return line
