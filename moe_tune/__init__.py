"""moe_tune: the lab bench for gating fixes in mixture-of-experts language models."""

import os

from moe_tune.base.moved import keep_old_names

# Batches of prompts and logits are tens of megabytes; in pages of 4 KiB the system spends longer on mapping them than
# the processor on filling them. PyTorch reads this before its first large allocation; where huge pages are not to be
# had, nothing changes.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

keep_old_names()

__version__ = "0.1.0"
