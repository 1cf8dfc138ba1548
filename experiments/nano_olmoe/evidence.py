"""What the nano OLMoE can do and which experts it uses, from the stock model's own outputs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from moe_tune.data.protocol import PromptProtocol
from moe_tune.data.question import LETTERS, Question

BATCH = 256


@torch.inference_mode()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question], protocol: PromptProtocol
) -> dict[str, Any]:
    """Return accuracy and expert use of a model over some questions in one layout.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        questions: Questions with four choices.
        protocol: The layout they are asked in.

    Returns:
        ``accuracy`` and ``subjects`` (shares from 0 to 1, the choice with the most probable letter counts), and per
        scope (``answer``: the last prompt token; ``all``: every token) ``never_activated_share``, the share of the
        experts of each layer that no token chose, and ``entropy_topk``, the mean entropy in nats of the renormalised
        top-k weights, at most ln k.
    """
    config = model.config
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS[:4])))
    right, asked = Counter[str](), Counter(question.subject for question in questions)
    counts = {scope: torch.zeros(config.num_hidden_layers, config.num_experts) for scope in ("answer", "all")}
    entropy = dict.fromkeys(counts, 0.0)
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        encoded = tokenizer([protocol.prompt(question) for question in batch], return_tensors="pt", padding=True)
        mask = encoded["attention_mask"]
        outputs = model.model(encoded["input_ids"], attention_mask=mask, use_cache=False, output_router_logits=True)
        rows, last = torch.arange(len(batch)), mask.sum(1) - 1
        chosen = model.lm_head(outputs.last_hidden_state[rows, last])[:, letters].argmax(1).tolist()
        right.update(q.subject for q, choice in zip(batch, chosen, strict=True) if q.answer == choice)
        answer = torch.zeros_like(mask).index_put((rows, last), torch.tensor(1))
        for scope, where in (("answer", answer), ("all", mask)):
            for layer, logits_TE in enumerate(outputs.router_logits):
                probs_TE = logits_TE[where.flatten() == 1].softmax(-1)
                weights_TK, experts_TK = probs_TE.topk(config.num_experts_per_tok)
                counts[scope][layer] += torch.bincount(experts_TK.flatten(), minlength=config.num_experts)
                weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
                entropy[scope] += torch.special.entr(weights_TK).sum().item()
    tokens = {scope: count.sum().item() / config.num_experts_per_tok for scope, count in counts.items()}
    return {
        "accuracy": right.total() / len(questions),
        "subjects": {subject: right[subject] / count for subject, count in asked.items()},
        "never_activated_share": {scope: (count == 0).float().mean(1).tolist() for scope, count in counts.items()},
        "entropy_topk": {scope: entropy[scope] / tokens[scope] for scope in counts},
    }
