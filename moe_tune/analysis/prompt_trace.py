"""How the routers route one prompt, token by token: the pretrained ones beside the tuned ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from moe_tune.base.errors import DataError
from moe_tune.data.encoding import text_tokens
from moe_tune.gates.gated_model import GatedModel
from moe_tune.reports.chart import Axis, Blank, Chart, Heat, Hover, layer_ticks
from moe_tune.reports.palette import ROOT_STOPS
from moe_tune.routing import RoutingTrace, entropy

BASE, TUNED = "base", "tuned"
ROUTERS = {BASE: "pretrained routers", TUNED: "tuned routers"}


@dataclass(frozen=True, slots=True, eq=False)
class PromptTrace:
    """The routing of one prompt.

    Args:
        tokens: The prompt's tokens as text, in order.
        routing: One row per router (``base``, ``tuned``), position, layer and chosen expert, the best first: ``rank``
            from 1, ``weight`` its output is summed with, ``entropy`` of the token over all experts in nats.
        continuations: One row per router and rank: the likeliest next tokens and their probabilities.
        experts: How many experts a layer has.
    """

    tokens: Sequence[str]
    routing: pd.DataFrame
    continuations: pd.DataFrame
    experts: int

    @property
    def routers(self) -> dict[str, str]:
        """The routers that are told of, with their names: both, or the pretrained ones alone."""
        there = set(self.routing["router"])
        return {router: name for router, name in ROUTERS.items() if router in there}

    def without_copy(self) -> "PromptTrace":
        """Return the trace without the tuned routers if they did to the last bit what the pretrained ones did."""
        frames = self.routing, self.continuations
        for frame in frames:
            own = [frame[frame["router"] == router].drop(columns="router").reset_index(drop=True) for router in ROUTERS]
            if not own[0].equals(own[1]):
                return self
        routing, continuations = (frame[frame["router"] == BASE] for frame in frames)
        return PromptTrace(self.tokens, routing, continuations, self.experts)

    def table(self) -> pd.DataFrame:
        """Return one row per token: how many experts of each layer another router chose, and the entropies.

        ``changed`` is the share of the pretrained routers' experts, over all layers, that the tuned ones do not choose;
        ``moved`` is the weight that went to other experts, half the sum of absolute differences, mean over layers.
        Of the pretrained routers alone there is the entropy only.
        """
        entropy = self.routing.groupby(["position", "router", "layer"])["entropy"].first()
        mean = entropy.groupby(["position", "router"]).mean().unstack("router")
        if TUNED not in self.routers:
            return pd.DataFrame({"token": list(self.tokens), "entropy_base": mean[BASE].to_numpy()})
        keys = ["position", "layer", "expert"]
        weights = self.routing.pivot_table(index=keys, columns="router", values="weight", fill_value=0.0)
        both = weights.assign(
            dropped=(weights[BASE] > 0) & (weights[TUNED] == 0),
            chosen=weights[BASE] > 0,
            moved=(weights[BASE] - weights[TUNED]).abs() / 2,
        )
        by_token = both.groupby("position")[["dropped", "chosen", "moved"]].sum()
        layers = self.routing["layer"].nunique()
        return pd.DataFrame(
            {
                "token": list(self.tokens),
                "changed": (by_token["dropped"] / by_token["chosen"]).to_numpy(),
                "moved": (by_token["moved"] / layers).to_numpy(),
                "entropy_base": mean[BASE].to_numpy(),
                "entropy_tuned": mean[TUNED].to_numpy(),
            }
        )

    def charts(self) -> dict[int, tuple[Chart, ...]]:
        """Return per layer the maps of weight by token and expert, of the pretrained router and of the tuned one."""
        top = float(self.routing["weight"].max())
        return {
            layer: tuple(self._map(layer, router, top) for router in self.routers)
            for layer in sorted(self.routing["layer"].unique())
        }

    def picture(self, path: str | Path) -> None:
        """Write the charts as one PNG: a row per layer, the pretrained router to the left, the tuned to the right."""
        from moe_tune.reports.picture_drawer import token_maps

        token_maps(list(self.charts().values())).savefig(path, dpi=110, format="png")

    def _map(self, layer: int, router: str, top: float) -> Chart:
        rows = self.routing[(self.routing["layer"] == layer) & (self.routing["router"] == router)]
        weight_SE = np.zeros((len(self.tokens), self.experts))
        weight_SE[rows["position"], rows["expert"]] = rows["weight"]
        names = {float(place): token_label(token) for place, token in enumerate(self.tokens)}
        told = "expert %{x}<br>weight %{z:.3f}"
        heat = Heat(
            np.arange(len(self.tokens)), weight_SE, ROOT_STOPS, 0, top, ".3f",
            [Blank(weight_SE == 0, "card", "expert %{x}<br>not chosen")], Hover(told),
        )  # fmt: skip
        ends = (len(self.tokens) - 0.5, -0.5)
        y = Axis(ticks=names, ends=ends, lined=False)
        title = f"layer {layer}, {ROUTERS[router]}"
        x = Axis("expert", ticks=layer_ticks(range(self.experts)), lined=False)
        return Chart([heat], x, y, title, height=90 + 17 * len(self.tokens))


def trace(gated: GatedModel, tokenizer: Any, prompt: str, likeliest: int = 5) -> PromptTrace:
    """Return how a model's routers route a prompt, the pretrained ones beside the tuned ones.

    Args:
        gated: The model with heads on it, such as ``load_head`` returns it.
        tokenizer: Its tokenizer.
        prompt: The text; the special tokens that the tokenizer puts before a text come first.
        likeliest: How many next tokens are told of each router.

    Raises:
        DataError: The prompt has no token, or more than the model's context holds.

    Example:
        >>> from moe_tune import BaseModel
        >>> from moe_tune.heads.temperature import TemperatureHead
        >>> base = BaseModel("nano")
        >>> gated = GatedModel(*base.load(), TemperatureHead(tau=0.5), layers="last-1", scope="all")
        >>> seen = trace(gated, base.load_tokenizer(), "The capital of")
        >>> seen.table()["changed"].max()  # a temperature changes weights, not the choice
        np.float64(0.0)
    """
    ids = text_tokens(tokenizer, prompt)
    most = int(gated.model.config.max_position_embeddings)
    if not 0 < len(ids) <= most:
        raise DataError(f"expected a prompt of 1 to {most} tokens but got {len(ids)} ({prompt[:40]!r}).")
    return trace_tokens(gated, tokenizer, ids, len(ids), likeliest=likeliest)


def trace_tokens(
    gated: GatedModel,
    tokenizer: Any,
    ids: Sequence[int],
    prompt_tokens: int,
    routers: Sequence[str] = tuple(ROUTERS),
    likeliest: int = 5,
) -> PromptTrace:
    """Return how a model's routers route a prompt and what was generated behind it, as they did in generation.

    Args:
        gated: The model with heads on it; those of scope ``answer`` act from the last prompt token on.
        tokenizer: Its tokenizer.
        ids: The tokens, at most as many as the context holds.
        prompt_tokens: How many of them are the prompt's, at least 1.
        routers: Of ``base`` and ``tuned`` those that are asked.
        likeliest: How many next tokens are told of each router.
    """
    tokens_BS = torch.tensor([ids], device=gated.device)
    answer_BS = torch.arange(len(ids), device=gated.device)[None] >= prompt_tokens - 1
    last_B = torch.tensor([len(ids) - 1], device=gated.device)
    routing, continuations = [], []
    gated.train(False)
    with torch.no_grad():
        for router in routers:
            with gated.session(base_only=router == BASE, answer_BS=answer_BS):
                logits_V = gated(tokens_BS, position_B=last_B)[0].float()
                routing.append(_routing(router, gated.trace))
            best = logits_V.softmax(-1).topk(likeliest)
            continuations += [
                {"router": router, "rank": rank, "token": tokenizer.decode([token]), "probability": probability}
                for rank, (probability, token) in enumerate(zip(*map(torch.Tensor.tolist, best), strict=True), start=1)
            ]
    texts = [tokenizer.decode([token]) for token in ids]
    return PromptTrace(texts, pd.concat(routing), pd.DataFrame(continuations), gated.rule.num_experts)


def token_label(token: str) -> str:
    r"""Return a token as one line of text in which white space shows.

    Example:
        >>> token_label(" a\n")
        '·a⏎'
    """
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def _routing(router: str, seen: RoutingTrace) -> pd.DataFrame:
    frames = []
    for layer, output in sorted(seen.outputs.items()):
        tokens, chosen = output.experts_TK.shape
        frame = pd.DataFrame(
            {
                "router": router,
                "position": np.repeat(np.arange(tokens), chosen),
                "layer": layer,
                "rank": np.tile(np.arange(1, chosen + 1), tokens),
                "expert": output.experts_TK.flatten().cpu().numpy(),
                "weight": output.weights_TK.double().flatten().cpu().numpy(),
                "entropy": np.repeat(entropy(output.probs_TE.float()).cpu().numpy(), chosen),
            }
        )
        used_TK = output.used_TK
        frames.append(frame if used_TK is None else frame[used_TK.flatten().cpu().numpy()])
    return pd.concat(frames)
