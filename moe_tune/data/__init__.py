"""Questions and text from a source to batches; every source in this folder is found by its class name.

The modules that import torch, Lightning or jinja2 hold no plug-in and are imported by those who need them.
"""

from moe_tune.base.plugins import import_siblings

NO_PLUG_IN = (
    *("batching", "chat", "conversation", "encoding", "joint_batching", "module", "packed", "patient_loader"),
    *("revisions", "short_answers", "short_batching", "source_items", "text_batching", "text_blocks", "texts"),
)
import_siblings(__name__, list(__path__), skip=NO_PLUG_IN)
