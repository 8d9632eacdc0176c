"""The paper's model sizes (Hiera paper, table 2), as constructor keywords. Data only: imports nothing."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

IMAGE: dict[str, Config] = {
    "tiny": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)},
    "small": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 11, 2)},
    "base": {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
    "base_plus": {"embed_dim": 112, "num_heads": 2, "stages": (2, 3, 16, 3)},
    "large": {"embed_dim": 144, "num_heads": 2, "stages": (2, 6, 36, 4)},
    "huge": {"embed_dim": 256, "num_heads": 4, "stages": (2, 6, 36, 4)},
}

# Sixteen-pixel mask units: a 32 px image is 2 x 2 of them, so that local and global attention differ.
MICRO_DIGITS: Config = {
    "embed_dim": 24,
    "num_heads": 1,
    "stages": (1, 2, 1),
    "q_pool": 2,
    "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, False, False),
}
