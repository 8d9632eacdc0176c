"""People in pictures, found offline."""

from __future__ import annotations
