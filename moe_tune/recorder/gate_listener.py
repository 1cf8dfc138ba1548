"""Hearing what the stock gates of a model return, once per forward pass; nothing of the model is changed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_tune.base.errors import ModelError
from moe_tune.recorder.read_gates import ReadGate
from moe_tune.routing import RouterOutput, RoutingTrace


@dataclass(frozen=True, slots=True)
class Returned:
    """What one gate has returned, as it has returned it.

    Args:
        logits: Router logits, (..., E).
        weights: Weights of the chosen experts, (..., K).
        experts: The chosen experts, (..., K).
        hidden: The gate's input, (..., D).
        with_gradient: Whether gradients were recorded while it ran.
    """

    logits: Tensor
    weights: Tensor
    experts: Tensor
    hidden: Tensor
    with_gradient: bool


@dataclass(frozen=True, slots=True)
class HeardPass:
    """A forward pass: its tokens, and what each gate has returned.

    Args:
        real_BS: True for real tokens, False for padding.
        with_gradient: Whether gradients were recorded when it began.
        returned: By layer.
    """

    real_BS: Tensor
    with_gradient: bool
    returned: dict[int, Returned] = field(default_factory=dict)

    def trace(self, gates: Sequence[ReadGate], needs: frozenset[str] = frozenset()) -> RoutingTrace:
        """Return the routing of the pass; gradients reach what the gates have returned with one.

        Args:
            gates: The gates that were heard.
            needs: ``hidden``, where something reads it.

        Raises:
            ModelError: A gate has seen other tokens than the pass.
        """
        trace = RoutingTrace.of_batch(self.real_BS, needs)
        for gate in gates:
            if gate.layer in self.returned:
                trace.record(_output(gate, self.returned[gate.layer], trace.real_T, needs))
        return trace


def _output(gate: ReadGate, one: Returned, real_T: Tensor, needs: frozenset[str]) -> RouterOutput:
    # Layers may lie on different devices, the statistics of all lie together.
    logits_TE = one.logits.reshape(-1, gate.rule.num_experts).to(real_T.device)
    if len(logits_TE) != len(real_T):
        raise ModelError(
            f"expected a router that sees the {len(real_T)} tokens of its batch but that of layer {gate.layer} got "
            f"{len(logits_TE)}. Hint: batches that are split along the sequence are not served."
        )
    return RouterOutput(
        logits_TE=logits_TE,
        probs_TE=gate.rule.probabilities(logits_TE),
        weights_TK=one.weights.reshape(len(real_T), -1).float().to(real_T.device),
        experts_TK=one.experts.reshape(len(real_T), -1).long().to(real_T.device),
        mask_T=real_T,
        layer=gate.layer,
        hidden_TD=one.hidden.reshape(len(real_T), -1) if "hidden" in needs else None,
        rule=gate.rule,
    )


class GateListener:
    """Hears every forward pass of a model's body, and hands it on when it ends.

    What gradient checkpointing computes again inside the backward pass is no pass: it calls layers, not the body; and
    where somebody checkpoints the whole body, the backward pass is known by its graph.

    Args:
        model: The model.
        gates: Its gates.
        wanted: Whether the pass that begins is to be heard.
        hear: Gets every pass that has ended well.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        gates: Sequence[ReadGate],
        wanted: Callable[[], bool],
        hear: Callable[[HeardPass], None],
    ) -> None:
        self.wanted, self.hear = wanted, hear
        self._pass: HeardPass | None = None
        self._projected: Tensor | None = None
        self._told = False
        body: nn.Module = model.base_model
        self._hooks = [
            body.register_forward_pre_hook(self._open, with_kwargs=True),
            body.register_forward_hook(self._close, always_call=True),
        ]
        for one in gates:
            if one.projection is not None:
                self._hooks.append(one.projection.register_forward_hook(self._keep_projected))
            self._hooks.append(one.gate.register_forward_hook(self._listener(one)))

    def remove(self) -> None:
        """Take all hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._pass = [], None

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch._C._current_graph_task_id() != -1 or not self.wanted():
            self._pass = None
            return
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self._pass = HeardPass(self._real(mask, tokens), torch.is_grad_enabled())

    def _real(self, mask: Any, tokens: Tensor) -> Tensor:
        if isinstance(mask, Tensor) and mask.dim() == 2:
            # With a cache the mask also covers earlier tokens; the current ones are the last.
            return mask[:, -tokens.shape[1] :].bool()
        if mask is not None and not self._told:
            self._told = True
            warnings.warn("no attention mask of batch x sequence: every token counts as a real one.", stacklevel=2)
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def _keep_projected(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._projected = output

    def _listener(self, gate: ReadGate) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def listen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            projected, self._projected = self._projected, None
            if self._pass is None:
                return
            # Kept as they are: an operation here would be one that checkpointing does not find again.
            logits = output[0] if projected is None else projected
            self._pass.returned[gate.layer] = Returned(logits, output[1], output[2], args[0], torch.is_grad_enabled())

        return listen

    def _close(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        heard, self._pass = self._pass, None
        if heard is not None and output is not None:  # ``None``: the forward call has failed
            self.hear(heard)
