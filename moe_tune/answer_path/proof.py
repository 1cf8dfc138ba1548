"""Proof that a model may be asked on the answer path: a few random prompts by both ways."""

from types import SimpleNamespace
from typing import Any

import torch

from moe_tune.answer_path.forward import answer_logits
from moe_tune.answer_path.prefixes import SharedPrefixes
from moe_tune.answer_path.prompt_pass import PromptPass
from moe_tune.base.errors import ModelError
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.state_shape import StateShape

LENGTHS = (11, 3, 7)
"""Tokens of the prompts."""
ALLOWED = 64.0
"""How many times its precision a model's logits may be off, relative to the largest: sums are in another order."""


@torch.no_grad()
def prove_answer_path(gated: GatedModel, shape: StateShape) -> None:
    """Refuse a model that answers random prompts otherwise on the answer path than in full.

    Args:
        gated: The model; its heads do not act.
        shape: What is kept of its prompts.

    Raises:
        ModelError: It does.
    """
    draw = torch.Generator().manual_seed(0)
    words = gated.model.get_input_embeddings().weight.shape[0]
    rows = [torch.randint(words, (length,), generator=draw, device="cpu") for length in LENGTHS]
    question: Any = SimpleNamespace(subject="none")
    prompts = [PromptedQuestion(question, row.int(), 0) for row in rows]
    prompt_pass = PromptPass(gated, shape, prompts, SharedPrefixes([], [-1] * len(rows)), pad_id=0)
    with gated.session(base_only=True):
        came_BV = answer_logits(gated, shape, prompt_pass.batch(range(len(rows)))).float()
        ids_BS = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(gated.device)
        length_B = torch.tensor(LENGTHS, device=gated.device)
        mask_BS = (torch.arange(ids_BS.shape[1], device=gated.device) < length_B[:, None]).long()
        full_BV = gated(ids_BS, mask_BS, length_B - 1).float()
    off, size = float((came_BV - full_BV).abs().max()), float(full_BV.abs().max())
    if not off <= ALLOWED * torch.finfo(gated.model.dtype).eps * size:
        raise ModelError(
            f"expected a model that answers from kept keys and values as from full prompts but its logits are off by "
            f"{off:.3g} of {size:.3g} ({type(gated.model).__name__}). Hint: --model.answer_path.use never."
        )
