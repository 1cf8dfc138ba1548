"""Which auxiliary losses anybody's training loop cannot have: those that read what only our own runs know."""

from collections.abc import Mapping, Sequence
from typing import Any

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss
from moe_tune.recorder.read_gates import ReadGate
from moe_tune.routing import Scope

SCOPE: Scope = "all"
"""Where a loss without a scope of its own looks: at every real token."""
KNOWN = frozenset({"hidden"})
"""Extras of a trace that the gates themselves see."""


def checked_losses(losses: Any) -> dict[str, AuxLoss]:
    """Return losses by name, after looking at what somebody's program gave.

    Args:
        losses: What was given.

    Raises:
        ConfigError: It is no mapping of names to losses.
    """
    what, hint = "losses by name", 'with_losses(model, {"balance": LoadBalanceLoss(weight=0.01)}).'
    require(isinstance(losses, Mapping), what, losses, "losses", hint)
    for name, loss in losses.items():
        require(isinstance(name, str), what, name, "losses, a name", hint)
        where = f"losses, {name!r}"
        require(isinstance(loss, AuxLoss), "a loss, made of its class,", loss, where, hint)
    return dict(losses)


def refuse_unknowable(losses: Mapping[str, AuxLoss], gates: Sequence[ReadGate]) -> None:
    """Refuse losses that read what is not there.

    Args:
        losses: Auxiliary losses by name.
        gates: The model's gates.

    Raises:
        ConfigError: There is no loss, or one that reads answers, what a run prepares, the pretrained router beside the
            trained one, or probabilities where no closed form says what they are.
    """
    require(bool(losses), "at least one loss", {}, "losses", "LoadBalanceLoss(weight=0.01).")
    layers = [one.layer for one in gates]
    for name, loss in losses.items():
        kind, where = type(loss).__name__, f"losses, {name!r}"
        beyond = sorted(loss.needs - KNOWN) + (["answer"] if loss.reads == "answer" else [])
        hint = "python -m moe_tune fit has such losses; load balancing, entropies and z-loss can be used here."
        require(not beyond, "a loss of the routing alone", f"{kind}, which reads {beyond}", where, hint)
        scope = loss.scope or SCOPE
        require(scope in loss.scopes, f"scope {' or '.join(loss.scopes)} for {kind}", scope, where, "set its scope.")
        named = loss.layers or layers
        require({*named} <= {*layers}, f"MoE layers of {layers} for {kind}", named, where, "None takes all of them.")
        described = all(one.rule.described for one in gates)
        what = "no loss of probabilities, as this router weighs in no known closed form,"
        hint = "losses of logits or weights, such as ZLoss, can be used."
        require(described or not loss.reads_probabilities, what, kind, where, hint)
