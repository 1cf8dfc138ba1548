"""Pinned routes: every token goes to the experts that a file says, whatever the router would choose."""

import os
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from moe_tune.base.errors import ConfigError, DataError, require
from moe_tune.base.routes import Routes, Whole
from moe_tune.base.routes_file import read_routes
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision, RoutingTrace, Rows

SAME = "make one with this model, tokenizer, protocol and split: predict --routes FILE."


class RoutesHead(RouterHead):
    """Pins every token's experts to those of a file; their weights come from the logits as they are now.

    Formula: ``S_t`` is read from the file, ``w = p_S`` by the family's rule. With the routes of the pretrained router
    the start is exact, with others it is not. Tokens are found by all token ids of their prompt, so that those of
    another tokenizer, protocol or split are refused; questions whose prompts are equal share the routes of the first.
    What comes before it in a ``Stack`` still changes the logits, and so the weights: a router can be trained on fixed
    routes. A token may have more or fewer slots than the model. Prompts run in full.

    Args:
        file: Parquet or npz, as ``predict --routes FILE`` writes it: question, token, token id, layer, slot, expert.
            Weights in it are not read; an expert of -1 is a slot not in use.
        act: ``training`` leaves evaluations to the router.

    Shape:
        - ``weights_TK``: (T, slots of the file).

    Raises:
        ConfigError: The file is of another base model, where it says of which, or has other experts, slots or layers.
        DataError: There is no such file, it is none of routes, or it has no routes for a prompt.

    Reference:
        Router replay as in Megatron-LM and verl, which pin a training pass to the experts that served the tokens; that
        code was not run for this, and only its decision is here: no routes are taken from a running server.
    """

    def __init__(self, file: str, act: Literal["always", "training"] = "always") -> None:
        super().__init__()
        self.file, self.act = file, act

    @property
    def traits(self) -> HeadTraits:
        trains = self.act == "training"
        reason = "" if trains else "the experts are those of the file"
        return HeadTraits(
            exact_start=trains,
            replaces_weights=True,
            variable_k=True,
            train_only=trains,
            knows_tokens=True,
            reason=reason,
        )

    def bind(self, gate: BaseGate) -> None:
        """Read the file, once for all layers."""
        self.pinned = _pinned(self.file, os.stat(self.file).st_mtime_ns if os.path.isfile(self.file) else 0)
        routes, rule, where = self.pinned.routes, gate.rule, f"head.file, {self.file}"
        experts, slots = routes.num_experts or rule.num_experts, routes.top_k or rule.top_k
        sizes = f"{rule.top_k} of {rule.num_experts} experts"
        require((slots, experts) == (rule.top_k, rule.num_experts), sizes, f"{slots} of {experts}", where, SAME)
        highest = int(routes.experts_NLK.max())
        require(highest < rule.num_experts, f"experts below {rule.num_experts}", highest, where, SAME)
        if routes.top_k is None:
            width = routes.experts_NLK.shape[-1]
            require(width == rule.top_k, f"{rule.top_k} slots", width, where, SAME)
        require(gate.layer in routes.layers, f"layer {gate.layer} in the file", routes.layers, where, SAME)
        self.made_for = routes.fingerprint
        self.place_T: Whole | None = None
        self.at = routes.layers.index(gate.layer)

    def refuse_layers(self, layers: list[int]) -> None:
        there = self.pinned.routes.layers
        require(set(there) <= set(layers), f"layers of {layers}", there, f"head.file, {self.file}", SAME)

    @property
    def idle(self) -> bool:
        """Whether the router decides."""
        return self.act == "training" and not self.training

    def meet(self, trace: RoutingTrace, rows: Rows) -> None:
        self.place_T = None
        if self.idle:
            return
        if trace.token_T is None:
            raise ConfigError(
                "expected whole prompts, whose tokens are looked up, but got answer tokens alone "
                f"(RoutesHead, layer {self.pinned.routes.layers[self.at]}). Hint: predict, validate and fit run them."
            )
        index_T = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        self.place_T = self.pinned.places(trace)[index_T]

    def weigh(self, decision: Decision) -> Decision:
        """Put the file's experts in the place of the chosen ones; padding keeps its own, which nobody reads."""
        if self.idle or self.place_T is None:
            return decision
        experts_TK = torch.from_numpy(self.pinned.routes.experts_NLK[self.place_T, self.at].astype(np.int64))
        used_TK, order_TK = (experts_TK >= 0).sort(dim=-1, descending=True, stable=True)
        experts_TK = experts_TK.gather(-1, order_TK)
        experts_TK = torch.where(used_TK, experts_TK, experts_TK[:, :1].clamp(min=0))
        device = decision.experts_TK.device
        used = None if used_TK.all() else used_TK.to(device)
        return replace(decision, experts_TK=experts_TK.to(device), used_TK=used)


class _Pinned:
    """The routes of a file, by the token ids of its prompts."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.first: dict[bytes, int] = {}
        for start, end in zip(routes.first_Q[:-1], routes.first_Q[1:], strict=True):
            self.first.setdefault(routes.token_N[start:end].tobytes(), int(start))
        self.seen: tuple[Tensor | None, Whole] = (None, np.zeros(0, dtype=np.int64))

    def __deepcopy__(self, memo: object) -> "_Pinned":
        return self

    def places(self, trace: RoutingTrace) -> Whole:
        """Return where in the file each token of a forward pass is, found once for all layers; padding at 0."""
        if self.seen[0] is not trace.token_T or trace.token_T is None:
            assert trace.token_T is not None
            real_N = trace.real_T.cpu().nonzero().squeeze(-1).numpy()
            token_N = trace.token_T.cpu().numpy().astype(np.int64)[real_N]
            ends = np.cumsum(np.bincount(trace.question_T.cpu().numpy()[real_N]))
            place_T = np.zeros(len(trace.real_T), dtype=np.int64)
            for where, tokens in zip(np.split(real_N, ends[:-1]), np.split(token_N, ends[:-1]), strict=True):
                place_T[where] = self._start(tokens) + np.arange(len(tokens))
            self.seen = (trace.token_T, place_T)
        return self.seen[1]

    def _start(self, tokens: Whole) -> int:
        start = self.first.get(tokens.tobytes())
        if start is None:
            begins = ", ".join(map(str, tokens[:4]))
            raise DataError(
                f"expected a prompt that the file has routes for but got one of {len(tokens)} tokens, {begins}, ... "
                f"({self.routes.path}). Hint: {SAME}"
            )
        return start


@lru_cache(maxsize=2)
def _pinned(file: str, changed: int) -> _Pinned:
    """Return the routes of a file; read anew after a change of it."""
    return _Pinned(read_routes(file))
