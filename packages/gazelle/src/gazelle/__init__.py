"""Gaze-LLE: where is each person in a picture looking (arXiv 2412.09586)?"""

from __future__ import annotations
