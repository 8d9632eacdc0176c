"""PLM-VideoBench (arXiv 2504.13180, section 5.1): five tasks on videos, their metrics and the running of them."""

from __future__ import annotations
