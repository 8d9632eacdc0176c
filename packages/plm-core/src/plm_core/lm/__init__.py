"""The Perception Language Model (arXiv 2504.13180): a vision encoder, a projector and a language model of transformers.

Everything here needs the extra ``plm-core[lm]`` and is imported when it is first used.

"""

from __future__ import annotations
