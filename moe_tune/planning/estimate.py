"""What a configuration will need: parameters, memory, disk and time, from sizes alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from moe_tune.answer_path.build import PASS_TOKENS
from moe_tune.models.packed_weight import GROUP
from moe_tune.models.shapes import ModelShape
from moe_tune.models.state_shape import StateShape
from moe_tune.planning.machine import MachineSpeed

PROGRAM = 0.8e9
"""Bytes of the program itself: 0.53 GB once its libraries are imported (measured on a CPU), the rest for questions."""


ANSWER_EXPERTS = 0.4
"""Share of a layer's experts that answer tokens choose among; on MMLU over 60 % are never chosen (arXiv 2502.17187)."""


@dataclass(frozen=True, slots=True)
class Split:
    """The questions of a split.

    Args:
        questions: How many.
        tokens: Tokens of all their prompts.
        kept: Prompt tokens that are cached: without answer tokens, shared prefixes counted once.
        source: Where the figures come from, in words.
        prefixes: Prefixes that prompts share.
        answers: Mean answer tokens of a question: 1, but for cloze questions, whose choices' tokens they are.
        choice_tokens: Mean tokens of a cloze question's choices, a row of logits each; 0 where a question has one row.
    """

    questions: int
    tokens: float
    kept: float
    source: str
    prefixes: int = 0
    answers: float = 1.0
    choice_tokens: float = 0.0

    @property
    def length(self) -> float:
        """Mean tokens of a prompt."""
        return self.tokens / self.questions

    @property
    def logit_rows(self) -> float:
        """Mean rows of logits of a question."""
        return self.choice_tokens or 1.0

    @property
    def pass_batches(self) -> float:
        """Batches of a pass over the prompts: a prefix goes by itself, and the prompts it begins form their own."""
        return max(1.0, (self.kept + self.answers * self.questions) / PASS_TOKENS + 2 * self.prefixes)

    @property
    def pass_tokens(self) -> float:
        """Mean tokens of such a batch."""
        return (self.kept + self.answers * self.questions) / self.pass_batches

    def part(self, share: float) -> "Split":
        """Return a sample of the split.

        Args:
            share: Its share of the questions, above 0 and at most 1; at least one question stays.
        """
        questions = max(1, int(share * self.questions))
        share = questions / self.questions
        return replace(self, questions=questions, tokens=share * self.tokens, kept=share * self.kept)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a model, with heads from one layer up, costs on a machine.

    Args:
        shape: The model's sizes.
        dtype: Dtype of its weights.
        first_layer: First layer with a head.
        machine: The machine's speed.
        quantise: Bits of the experts' weights, 8 or 4; ``None`` where they have the dtype.
    """

    shape: ModelShape
    dtype: torch.dtype
    first_layer: int
    machine: MachineSpeed
    quantise: int | None = None

    @property
    def states(self) -> StateShape:
        """The sizes of what the answer path keeps."""
        shape, lower = self.shape, tuple(layer for layer in self.shape.moe_layers if layer < self.first_layer)
        layers = len(shape.dense_L)
        return StateShape(
            self.first_layer, layers, lower, shape.width, shape.key_value_heads, shape.head_dim, self.dtype
        )

    # Bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's weights."""
        experts = self.shape.rule.num_experts * sum(self.shape.expert_L)
        dense = (self.shape.total - experts) * self.dtype.itemsize
        return dense + round(experts * self.expert_weight_bytes)

    @property
    def expert_weight_bytes(self) -> float:
        """Bytes of one of the experts' weights, its part of the scales included."""
        if self.quantise is None:
            return float(self.dtype.itemsize)
        beside = 2 * self.dtype.itemsize / GROUP if self.quantise == 4 else self.dtype.itemsize / self.shape.width
        return self.quantise / 8 + beside

    def cache_bytes(self, split: Split) -> float:
        """Return the bytes a split's prompt cache takes: keys and values per token, hidden states per question."""
        return split.kept * self.states.token_bytes + split.questions * split.answers * self.states.answer_bytes

    def trunk_bytes(self, split: Split) -> float:
        """Return the bytes of a split's trunk cache: one hidden state per token."""
        return split.tokens * self.shape.width * self.dtype.itemsize

    def activation_bytes(self, tokens: float, layers: int = 1, logits: float = 0.0, kept: float = 0.0) -> float:
        """Return the bytes of intermediate results alive at once.

        Args:
            tokens: Tokens that run through the layers.
            layers: Layers whose results are alive: those that a gradient needs, or 1 without gradients.
            logits: Bytes of logits.
            kept: Cached tokens of the batch, read from the cache and put in order for the products.
        """
        size, rule = self.dtype.itemsize, self.shape.rule
        per_token = rule.top_k * (4 * self.shape.width + 4 * self.shape.inner) + 16 * self.shape.width
        return tokens * layers * per_token * size + logits + 2 * kept * self.states.token_bytes

    def logit_bytes(self, batch: int, split: Split, training: bool) -> float:
        """Return the bytes of a batch's logits: a row over the vocabulary per question, or per token of its choices.

        A logit is there in the model's dtype and in float32. Under cloze the cross-entropy over the vocabulary keeps a
        log-probability beside it, and its gradient takes two more: 10 and 18 bytes a logit in bfloat16, as measured.

        Args:
            batch: Questions per batch.
            split: The split.
            training: Whether a gradient is computed.
        """
        beside = (16 if training else 8) if split.choice_tokens else 4
        return batch * split.logit_rows * self.shape.vocabulary * (self.dtype.itemsize + beside)

    def training_bytes(self, batch: int, split: Split, answer_path: bool, recomputed: bool = False) -> float:
        """Return the bytes of intermediate results of a training step.

        Args:
            batch: Questions per batch.
            split: The training split.
            answer_path: Whether only answer tokens run, through the upper layers.
            recomputed: Whether layers of full prompts keep their input alone (gradient checkpointing).
        """
        prompts, logits = batch * split.length, self.logit_bytes(batch, split, training=True)
        tokens, kept = (batch * split.answers, prompts) if answer_path else (prompts, 0.0)
        if recomputed and not answer_path:
            inputs = tokens * self.states.upper_layers * self.shape.width * self.dtype.itemsize
            return inputs + self.activation_bytes(tokens, logits=logits)
        return self.activation_bytes(tokens, self.states.upper_layers, logits, kept)

    # Seconds

    def layer_seconds(self, layer: int, tokens: float, backward: bool = False, in_use: float = 1.0) -> float:
        """Return the seconds one layer takes: its products, its weights' way from memory, its intermediate results.

        Each expert that is hit is a product of its own; of U experts in use T tokens hit ``U (1 - (1 - K/U)^T)``.

        Args:
            layer: The layer.
            tokens: Tokens in the batch, T.
            backward: Of the gradient of its input instead.
            in_use: Share of the experts that the tokens choose among.
        """
        shape, rule, size = self.shape, self.shape.rule, self.dtype.itemsize
        dense, expert = shape.dense_L[layer], shape.expert_L[layer]
        products = 2 * tokens * dense / self.machine.rate(tokens, backward)
        weights, written, unpacked = float(dense), 16.0 * shape.width, 0.0
        if expert:
            used = max(rule.top_k, in_use * rule.num_experts)
            hit = used * (1 - (1 - rule.top_k / used) ** tokens)
            rows = tokens * rule.top_k / hit
            products += 2 * tokens * rule.top_k * expert / self.machine.rate(rows, backward)
            weights += hit * expert
            # Unpacked, a weight is written once and read once more.
            unpacked = 0.0 if self.quantise is None else 2 * hit * expert * size
            written += rule.top_k * (4 * shape.width + 4 * shape.inner)
        # What is written is read again: twice the bytes pass.
        moved = (2 * tokens * written * size + unpacked) / self.machine.copy
        return max(max(products, weights * size / self.machine.copy) + moved, self.machine.launch)

    def logit_seconds(self, rows: float) -> float:
        """Return the seconds of a batch's rows of logits."""
        parameters = self.shape.vocabulary * self.shape.width
        products = 2 * rows * parameters / self.machine.rate(rows)
        return max(products, parameters * self.dtype.itemsize / self.machine.copy)

    def pass_seconds(self, split: Split) -> float:
        """Return the seconds of the pass over a split's prompts, the writing of the cache included.

        Of the last layer only keys and values are computed.
        """
        layers = range(len(self.shape.dense_L) - 1)
        batch = sum(self.layer_seconds(layer, split.pass_tokens) for layer in layers)
        return split.pass_batches * batch + self.cache_bytes(split) / self.machine.disk

    def answer_seconds(self, split: Split, batch: int, training: bool = False) -> float:
        """Return the seconds of all questions of a split on the answer path, an epoch or an evaluation.

        Args:
            split: The split, cached.
            batch: Questions per batch.
            training: Whether gradients are computed, which go down to the first layer with a head.
        """
        kept = split.kept * self.states.token_bytes
        read = 2 * (1 + training) * kept / self.machine.copy + kept / self.machine.feed
        layers = range(self.first_layer, len(self.shape.dense_L))
        return self._seconds(split, batch, split.answers, layers, training) + read

    def prompt_seconds(self, split: Split, batch: int, training: bool = False, recomputed: bool = False) -> float:
        """Return the seconds of all questions of a split on full prompts, an epoch or an evaluation.

        Args:
            split: The split.
            batch: Questions per batch.
            training: Whether gradients are computed, which go down to the first layer with a head.
            recomputed: Whether layers that a gradient needs are computed once more for it (gradient checkpointing).
        """
        layers = list(range(len(self.shape.dense_L)))
        again = layers[self.first_layer :] if recomputed else []
        return self._seconds(split, batch, split.length, layers + again, training)

    def _seconds(self, split: Split, batch: int, length: float, layers: Iterable[int], training: bool) -> float:
        questions = min(batch, split.questions)
        tokens = questions * length
        in_use = ANSWER_EXPERTS if length == 1 else 1.0
        seconds = sum(self.layer_seconds(layer, tokens, in_use=in_use) for layer in layers)
        seconds += self.logit_seconds(questions * split.logit_rows)
        if training:
            # Below the first trained router no gradient is wanted: that layer's own products are not gone back through.
            upper = range(self.first_layer + 1, len(self.shape.dense_L))
            seconds += sum(self.layer_seconds(layer, tokens, True, in_use) for layer in upper)
            seconds += self.logit_seconds(questions * split.logit_rows)
        return split.questions / questions * seconds


def peak_bytes(
    costs: Costs, split: Split, batch: int, eval_batch: int, answer_path: bool, recomputed: bool = False
) -> float:
    """Return the most bytes of memory: the program, the weights, and the largest step's intermediate results.

    Args:
        costs: The model on the machine.
        split: The training split.
        batch: Questions per training batch.
        eval_batch: Questions per evaluation batch.
        answer_path: Whether prompts are cached.
        recomputed: Whether layers of full prompts keep their input alone in training (gradient checkpointing).
    """
    steps = [costs.training_bytes(batch, split, answer_path, recomputed)]
    logits = costs.logit_bytes(eval_batch, split, training=False)
    if answer_path:
        tokens = min(float(PASS_TOKENS), split.kept + split.answers * split.questions)
        # The keys and values of a batch are held twice: as computed, and as one tensor on the way to the disk.
        steps.append(costs.activation_bytes(tokens, kept=tokens))
        steps.append(costs.activation_bytes(eval_batch * split.answers, logits=logits, kept=eval_batch * split.length))
    else:
        steps.append(costs.activation_bytes(eval_batch * split.length, logits=logits))
    return PROGRAM + costs.weight_bytes + max(steps)
