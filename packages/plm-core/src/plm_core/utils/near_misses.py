"""The message of a look-up that failed: similar names, and the distribution that would provide the name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from plm_core.utils.requirements import installed
from plm_core.utils.text import shown

# Kind, pattern of the name and the distribution of this family that provides it, for look-ups that fail. Some of these
# distributions' names belong to other projects on the public index, so the hint never says "pip install <name>".
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
    ("command", "probe", "parc"),
    ("command", "paint-tokens", "tome"),
    ("command", "zeroshot", "pe-encoder"),
    ("command", "search", "pe-encoder"),
    ("command", "segment", "pe-encoder"),
    ("command", "merge", "zipit"),
    ("command", "gaze*", "gazelle"),
)


def miss(kind: str, name: str, known: Iterable[str], most: int = 30) -> str:
    """Return one line for a look-up that failed: similar names, and the distribution that would provide the name.

    Without similar names, all that are known are listed if they are at most ``most``.
    """
    known = sorted(set(known))
    line = f"no {kind} {shown(repr(name), 120)}"
    provider = next((dist for k, pattern, dist in PROVIDERS if k == kind and fnmatchcase(name, pattern)), None)
    absent = provider is not None and not installed(provider)
    if absent:
        line += f"; {provider} would provide it and is not installed (see 'Install' in the repository's README)"
    suggestions = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if suggestions:
        line += f"; did you mean {' or '.join(map(repr, suggestions))}?"
    elif not absent and 0 < len(known) <= most:
        line += f"; there are: {', '.join(known)}"
    return line
