"""From a layer on: how questions are answered with other heads where what enters the layer is known."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.trunk import hidden_from
from moe_tune.base.errors import ConfigError
from moe_tune.base.replaced import replaced
from moe_tune.data.batching import Batch
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import RouterHead
from moe_tune.models.experts_choice import experts_run_by
from moe_tune.routing import Scope
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.objective import judge, words_read
from moe_tune.tuner.offsets import on_answer_path

TOKENS = 4096
"""Answer tokens that go through the model at once."""
NUMBERS = 2**26
"""Logits over the vocabulary that are held at once, where all words' are needed."""
Panel = Sequence[Mapping[int, RouterHead]]
"""Heads by layer that act side by side."""


class Walk(Protocol):
    """Answers questions from a layer on."""

    examiner: Examiner
    split: str
    scope: Scope
    keeps: bool
    """Whether what enters layers is one state per question, which a first pass can keep."""

    def side_by_side(self, batch: Batch) -> int:
        """Return how many heads may answer a batch at once, at least 1."""

    def open(self, batch: Batch) -> None:
        """Turn to a batch."""

    def whole(self, heads: Mapping[int, RouterHead]) -> Tensor:
        """Return log-probabilities of the letters, (B, A), of the batch with heads acting; the trace is the model's."""

    def entering(self, heads: Mapping[int, RouterHead], layer: int, kept_QD: Tensor | None) -> Tensor:
        """Return what enters a layer.

        Args:
            heads: The heads that act below it.
            layer: The layer.
            kept_QD: What entered it at each question's answer token in an earlier pass, where the walk keeps it.
        """

    def onwards(self, layer: int, entering: Tensor, panel: Panel) -> Tensor:
        """Return the letters' log-probabilities from a layer on, (B, N, A), with each of N heads in turn acting."""


class _Walk:
    """What both ways have in common."""

    def __init__(self, examiner: Examiner, split: str, scope: Scope) -> None:
        self.examiner, self.split, self.scope = examiner, split, scope
        self.gated: GatedModel = examiner.gated
        self.batch: Any = None
        self.letters = examiner.quiz.letter_token_ids(split)

    def _judged(self, logits_MV: Tensor, letters: Sequence[int]) -> Tensor:
        where = f"{self.split} split, an intervention"
        return judge(logits_MV.float(), self.batch, letters, "letters", where).log_probs_BA

    def _words(self, batch: Batch) -> tuple[list[int] | None, Sequence[int]]:
        return words_read(self.gated, batch, self.letters, "letters", whole=False)

    @contextmanager
    def _running(self, panel: Panel) -> Iterator[None]:
        here = self.examiner.answering.circumstances
        with (
            torch.no_grad(),
            self.examiner.numerics(),
            experts_run_by(self.gated.model, here.pass_experts),
            self.gated.session(panel, scope=self.scope, needs=()),
        ):
            yield


class AnswerWalk(_Walk):
    """Answer tokens alone, over kept keys and values; what enters a layer is one state per question.

    Args:
        examiner: Who asks.
        split: Which questions.
        layers: The layers that heads act in, or from which on questions are answered.
    """

    keeps = True

    def __init__(self, examiner: Examiner, split: str, layers: Sequence[int]) -> None:
        super().__init__(on_answer_path(examiner, split, layers), split, "answer")
        self.examiner.prepare([split])
        self.states: PromptStates | None = None

    def side_by_side(self, batch: Batch) -> int:
        """Return how many heads may answer a batch at once."""
        questions = len(batch.gold_B)
        most = TOKENS // questions
        if self._words(batch)[0] is None:
            most = min(most, NUMBERS // (questions * int(self.gated.model.config.vocab_size)))
        return max(1, most)

    def open(self, batch: Batch) -> None:
        """Read what is kept of a batch's prompts."""
        self.batch = batch.to(self.gated.device)
        with torch.no_grad(), self.examiner.numerics():
            self.states = self.examiner.answering.states(self.batch, self.split)

    def whole(self, heads: Mapping[int, RouterHead]) -> Tensor:
        """Return the letters' log-probabilities, (B, A)."""
        assert self.states is not None
        words, letters = self._words(self.batch)
        with self._running([heads]):
            logits_BV = self.examiner.answering.logits_of(self.states, self.batch, self.split, words)
            return self._judged(logits_BV, letters)

    def entering(self, heads: Mapping[int, RouterHead], layer: int, kept_QD: Tensor | None) -> Tensor:
        """Return what enters a layer at the answer tokens, (B, D)."""
        assert kept_QD is not None
        return kept_QD[self.batch.question_B.cpu()].to(self.gated.device)

    def onwards(self, layer: int, entering: Tensor, panel: Panel) -> Tensor:
        """Return the letters' log-probabilities, (B, N, A)."""
        assert self.states is not None
        words, letters = self._words(self.batch)
        with self._running(panel):
            logits_MV = self.examiner.answering.logits_from(layer, entering, self.states, self.batch, self.split, words)
            log_probs_MA = self._judged(logits_MV, letters)
        return log_probs_MA.view(-1, len(panel), log_probs_MA.shape[1])


class PromptWalk(_Walk):
    """Whole prompts: at scope ``all``, and where prompts cannot be kept as keys and values.

    Args:
        examiner: Who asks.
        split: Which questions.
        scope: Where heads act.
    """

    keeps = False

    def __init__(self, examiner: Examiner, split: str, scope: Scope) -> None:
        super().__init__(examiner.on_full_prompts(), split, scope)
        self.again = self.gated.family.refusals(self.gated.model.config).trunk is not None
        """Whether the layers below run again each time."""

    def side_by_side(self, batch: Batch) -> int:
        """Return how many heads answer a batch before the next word is said."""
        return 8

    def open(self, batch: Batch) -> None:
        """Turn to a batch."""
        self.batch = batch.to(self.gated.device)

    def whole(self, heads: Mapping[int, RouterHead]) -> Tensor:
        """Return the letters' log-probabilities, (B, A)."""
        one, (words, letters) = self.batch, self._words(self.batch)
        with self._running([heads]):
            logits_BV = self.gated(one.input_ids_BS, one.attention_mask_BS, one.answer_position_B, words)
            return self._judged(logits_BV, letters)

    def entering(self, heads: Mapping[int, RouterHead], layer: int, kept_QD: Tensor | None) -> Tensor:
        """Return what enters a layer at all tokens, (B, S, D); nothing where the layers below run again."""
        if self.again:
            return torch.zeros(0)
        body: Any = self.gated.model.base_model
        with self._running([heads]), replaced(body, layers=body.layers[:layer], norm=nn.Identity()):
            hidden_BSD: Tensor = body(
                input_ids=self.batch.input_ids_BS, attention_mask=self.batch.attention_mask_BS, use_cache=False
            ).last_hidden_state
        return hidden_BSD

    def onwards(self, layer: int, entering: Tensor, panel: Panel) -> Tensor:
        """Return the letters' log-probabilities, (B, N, A), one head after the other."""
        if self.again:
            return torch.stack([self.whole(heads) for heads in panel], dim=1)
        words, letters = self._words(self.batch)
        row_B = torch.arange(len(entering), device=entering.device)
        parts = []
        for heads in panel:
            with self._running([heads]):
                hidden_BSD = hidden_from(self.gated, layer, entering, self.batch.attention_mask_BS)
                answer_BD = hidden_BSD[row_B, self.batch.answer_position_B]
                parts.append(self._judged(self.gated.vocabulary_logits(answer_BD, words), letters))
        return torch.stack(parts, dim=1)


def walk_of(examiner: Examiner, split: str, layers: Sequence[int], scope: Scope) -> Walk:
    """Return the cheapest exact way.

    Raises:
        ConfigError: Choices' texts are scored.
    """
    if examiner.quiz.is_cloze(split):
        raise ConfigError(
            "expected letters asked for at the answer position but got choices whose texts are scored "
            "(data.protocol). Hint: --data.protocol lm_eval."
        )
    refused = examiner.gated.family.refusals(examiner.gated.model.config).answer_path
    if scope == "answer" and refused is None:
        return AnswerWalk(examiner, split, layers)
    return PromptWalk(examiner, split, scope)


@contextmanager
def watched_layers(gated: GatedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect what enters layers, by layer, in the passes while this is open; the last one stays."""
    seen: dict[int, Tensor] = {}
    model: Any = gated.model

    def note(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[layer] = args[0]

        return hook

    hooks = [model.base_model.layers[layer].register_forward_pre_hook(note(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watched_experts(gated: GatedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect what the experts of layers read, (T, D) by layer, in the passes while this is open."""
    seen: dict[int, Tensor] = {}

    def note(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            hidden = [*args, *named.values()][0]
            seen[layer] = hidden.reshape(-1, hidden.shape[-1])

        return hook

    blocks, path = gated.family.moe_layers(gated.model), gated.family.experts_path
    hooks = [
        blocks[layer].get_submodule(path).register_forward_pre_hook(note(layer), with_kwargs=True) for layer in layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
