"""The routing of one forward pass through all layers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from moe_tune.routing.output import RouterOutput, Rows
from moe_tune.routing.scope import PARTS, Part, Scope


@dataclass(slots=True)
class RoutingTrace:
    """The routing of one forward pass: one ``RouterOutput`` per MoE layer, in layer order.

    Open only during the forward call: what gradient checkpointing computes again in the backward pass is not
    recorded a second time.

    Args:
        real_T: True for real tokens, False for padding.
        answer_T: True at the answer position of each question (its last real token); of a cloze question at its last
            prompt token and every token of a choice but the last.
        question_T: Index within the batch of the question a token belongs to.
        needs: Costly extras to record: ``hidden``, ``base_logits``, ``own_probs``.
        answer_only: The forward pass saw answer tokens alone (the answer path); nothing is known of the others.
        part_T: Index in ``PARTS`` of the prompt part each token belongs to, -1 at padding; ``None`` when unknown.
        acting: Which questions a head acts on, (Q,), where it chooses; by its index among heads side by side.
        token_T: The token ids, where the model was called with whole prompts; else ``None``.
    """

    real_T: Tensor
    answer_T: Tensor
    question_T: Tensor
    needs: frozenset[str] = frozenset()
    answer_only: bool = False
    part_T: Tensor | None = None
    outputs: dict[int, RouterOutput] = field(default_factory=dict)
    is_open: bool = True
    acting: dict[int, Tensor] = field(default_factory=dict)
    token_T: Tensor | None = None
    _cuts: dict[str, list[RouterOutput]] = field(default_factory=dict, init=False, repr=False)
    _rows: dict[str, tuple[Rows, Rows | None]] = field(default_factory=dict, init=False, repr=False)
    _split: dict[int, tuple[Rows | None, Rows | None]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_batch(cls, attention_mask_BS: Tensor, needs: frozenset[str] = frozenset()) -> "RoutingTrace":
        """Open a trace for a padded batch; the answer position is the last real token, whichever side is padded.

        Example:
            >>> trace = RoutingTrace.of_batch(torch.tensor([[1, 1, 0], [0, 1, 1]]))
            >>> trace.answer_T.nonzero().flatten().tolist()
            [1, 5]
        """
        real_BS = attention_mask_BS.bool()
        questions, positions = real_BS.shape
        place_S = torch.arange(positions, device=real_BS.device)
        last_B = torch.where(real_BS, place_S, -1).max(dim=1).values
        answer_BS = real_BS & (place_S[None] == last_B[:, None])
        question_BS = torch.arange(questions, device=real_BS.device)[:, None].expand(questions, positions)
        return cls(real_BS.reshape(-1), answer_BS.reshape(-1), question_BS.reshape(-1), needs)

    @classmethod
    def of_tokens(
        cls, real_BS: Tensor, answer_BS: Tensor, needs: frozenset[str] = frozenset(), *, answer_only: bool = False
    ) -> "RoutingTrace":
        """Open a trace for a padded batch whose rows have several answer tokens, as the choices of a cloze question."""
        question_BS = torch.arange(len(real_BS), device=real_BS.device)[:, None].expand_as(real_BS)
        return cls(real_BS.reshape(-1), answer_BS.reshape(-1), question_BS.reshape(-1), needs, answer_only)

    @classmethod
    def of_answers(
        cls, questions: int, heads: int, device: torch.device, needs: frozenset[str] = frozenset()
    ) -> "RoutingTrace":
        """Open a trace for a batch of answer tokens, one per question and head; those of a question are neighbours."""
        every_T = torch.ones(questions * heads, dtype=torch.bool, device=device)
        question_T = torch.arange(questions, device=device).repeat_interleave(heads)
        return cls(every_T, every_T, question_T, needs, answer_only=True)

    def of_head(self, index: int, heads: int) -> "RoutingTrace":
        """Return the part of a trace of answer tokens that belongs to one of several heads.

        Args:
            index: Which head, from 0.
            heads: How many were compared, N.
        """
        rows = slice(index, None, heads)
        tokens = {name: getattr(self, name)[rows] for name in ("real_T", "answer_T", "question_T")}
        acting = {0: self.acting[index]} if index in self.acting else {}
        outputs = {layer: one.rows(rows) for layer, one in self.outputs.items()}
        return replace(self, **tokens, outputs=outputs, acting=acting)

    def mask(self, scope: Scope | Part) -> Tensor:
        """Return the tokens of a scope or a prompt part, (T,).

        Raises:
            RuntimeError: All tokens are asked for but only the answer tokens were seen, or the parts are not known.
        """
        if scope == "answer":
            return self.answer_T
        if self.answer_only:
            raise RuntimeError("all tokens were asked of a trace that holds answer tokens alone")
        if scope == "all":
            return self.real_T
        if self.part_T is None:
            raise RuntimeError(f"the tokens of the {scope} were asked of a trace that does not know the parts")
        return self.part_T == PARTS.index(scope)

    def rows(self, scope: Scope | Part) -> tuple[Rows, Rows | None]:
        """Return where the tokens of a scope are and where the others are, found once; ``None`` if there are none."""
        if scope not in self._rows:
            mask_T = self.mask(scope)
            index_T = mask_T.nonzero().squeeze(-1)
            every = len(index_T) == len(mask_T)
            self._rows[scope] = (slice(None), None) if every else (index_T, (~mask_T).nonzero().squeeze(-1))
        return self._rows[scope]

    def first_answers(self) -> Tensor:
        """Return where, among the tokens of scope ``answer``, the first of each question stands."""
        question_T = self.question_T[self.answer_T]
        return torch.cat([question_T.new_ones(1, dtype=torch.bool), question_T.diff() != 0]).nonzero().squeeze(-1)

    def last_prompt_tokens(self, rows: Rows) -> Tensor:
        """Return where the last prompt token of each question stands, of the tokens of one head."""
        index_T = torch.arange(len(self.answer_T), device=self.answer_T.device)[rows]
        index_T = index_T[self.answer_T[index_T]]
        question_T = self.question_T[index_T]
        return index_T[torch.cat([question_T.new_ones(1, dtype=torch.bool), question_T.diff() != 0])[: len(index_T)]]

    def split(self, index: int, rows: Rows) -> tuple[Rows | None, Rows | None]:
        """Return the tokens of a head whose questions it acts on, and the others, found once; ``None`` for none."""
        if index not in self._split:
            index_T = torch.arange(len(self.answer_T), device=self.answer_T.device)[rows]
            chosen_T = self.acting[index][self.question_T[index_T]]
            count = int(chosen_T.sum())
            if count in (0, len(index_T)):
                self._split[index] = (rows, None) if count else (None, rows)
            else:
                self._split[index] = (index_T[chosen_T], index_T[~chosen_T])
        return self._split[index]

    def record(self, output: RouterOutput) -> None:
        """Keep a layer's output while the trace is open; drop it afterwards."""
        if self.is_open:
            self.outputs[output.layer] = output
            self.forget()

    def at(self, scope: Scope | Part) -> Iterator[RouterOutput]:
        """Return each layer's output restricted to the tokens of a scope, in layer order.

        Without gradients, as metrics read it, the tokens are cut out once and kept until ``forget``.
        """
        if torch.is_grad_enabled():  # a loss: nothing is kept alive beside its graph
            return self._cut(scope)
        if scope not in self._cuts:
            self._cuts[scope] = list(self._cut(scope))
        return iter(self._cuts[scope])

    def forget(self) -> None:
        """Let go of the tokens that were cut out."""
        self._cuts.clear()

    def _cut(self, scope: Scope | Part) -> Iterator[RouterOutput]:
        keep, _ = self.rows(scope)
        for layer in sorted(self.outputs):
            yield self.outputs[layer].rows(keep)
