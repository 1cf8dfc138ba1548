"""Keeps advertisements, loading bars and known-harmless warnings of the libraries out of a run's output."""

import logging
import warnings

HARMLESS = (
    ".*isinstance.treespec, LeafSpec.*",  # lightning 2.6 with torch 2.13
    ".*module\\(s\\) in eval mode at the start of training.*",  # the base model belongs in eval mode
    ".*smaller than the logging interval.*",
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*anonymous.*has no effect.*",
    ".*The dirpath has changed from.*",  # a checkpoint read from a moved run
    ".*your dataloader is not resumable.*",  # its sampler is
    ".*It is recommended to use `self.log.*sync_dist.*",  # what is logged is the same on every process
    ".*callbacks used to create the checkpoint need to be provided.*",  # an analysis trains nothing
)


UNSAID = ("Tip:", "TPU available", "Restoring states from the checkpoint", "Tensor Cores")
"""Of advertisements, of what is not there, of what the next line says again, and of a precision too low for routers."""


def _no_tip(record: logging.LogRecord) -> bool:
    return not any(words in str(record.msg) for words in UNSAID)


def quieten() -> None:
    """Filter the known noise; call before a trainer is made."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    # One object, which a logger takes once.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_tip)
