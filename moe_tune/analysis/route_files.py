"""What files of routes say, layer by layer, and how far two of them agree; no model is needed."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.base.routes import UNUSED, Routes, Whole

CHUNK = 65_536
"""Tokens that are compared at a time: each of one file's slots is held against each of the other's."""


def usage(routes: Routes) -> pd.DataFrame:
    """Return one row per layer: how many experts serve a token, how many serve any, and how uneven their load is.

    ``experts`` is the mean number of experts per token, ``activated`` how many experts of the layer serve at least one
    token, ``load_imbalance`` the largest over the mean load of the layer's experts (of those that are named anywhere in
    the file, where it does not say how many there are), ``weight`` the mean sum of a token's weights, NaN without any.
    """
    most = routes.num_experts or int(routes.experts_NLK.max()) + 1
    rows = []
    for at, layer in enumerate(routes.layers):
        experts_NK = routes.experts_NLK[:, at]
        count_E = np.bincount(experts_NK[experts_NK != UNUSED], minlength=most)
        imbalance = float(count_E.max() / count_E.mean()) if count_E.any() else np.nan
        weight = np.nan if routes.weights_NLK is None else float(_weights(routes, at).sum(-1).mean())
        rows.append((layer, count_E.sum() / len(experts_NK), int((count_E > 0).sum()), imbalance, weight))
    return pd.DataFrame(rows, columns=["layer", "experts", "activated", "load_imbalance", "weight"])


def shared_tokens(one: Routes, other: Routes) -> tuple[Whole, Whole, int]:
    """Return where the tokens of the questions that are in both files stand in each, and how many questions those are.

    Raises:
        DataError: The files are of different models, share no question, or a question has other tokens in one of them.
    """
    where = f"{one.path}, {other.path}"
    for what, mine, theirs in (
        ("layers", one.layers, other.layers),
        ("experts per layer", one.num_experts, other.num_experts),
        ("slots", one.top_k, other.top_k),
        ("the base models", one.fingerprint, other.fingerprint),
    ):
        if mine is not None and theirs is not None and mine != theirs:
            raise DataError(
                f"expected routes of one model but got {what} {mine} and {theirs} ({where}). "
                "Hint: only experts of one model can be the same."
            )
    place = {name: index for index, name in enumerate(other.ids)}
    pairs = [(index, place[name]) for index, name in enumerate(one.ids) if name in place]
    if not pairs:
        raise DataError(f"expected questions that are in both files but there is none ({where}). Hint: one split.")
    mine_N, theirs_N = (
        np.concatenate([np.arange(routes.first_Q[index], routes.first_Q[index + 1]) for index in chosen])
        for routes, chosen in zip((one, other), zip(*pairs, strict=True), strict=True)
    )
    if len(mine_N) != len(theirs_N) or (one.token_N[mine_N] != other.token_N[theirs_N]).any():
        changed = next(
            one.ids[a]
            for a, b in pairs
            if not np.array_equal(
                one.token_N[one.first_Q[a] : one.first_Q[a + 1]], other.token_N[other.first_Q[b] : other.first_Q[b + 1]]
            )
        )
        raise DataError(
            f"expected the same tokens in both files but question {changed} has others ({where}). "
            "Hint: one tokenizer, one protocol."
        )
    return mine_N, theirs_N, len(pairs)


def agreement(one: Routes, other: Routes, mine_N: Whole, theirs_N: Whole) -> pd.DataFrame:
    """Return one row per layer: how many tokens have another set of experts, and how much of the sets is shared.

    ``other_set`` is the share of tokens whose sets differ, ``overlap`` the mean over tokens of the experts in both over
    those in the larger set (1 where both have none), ``moved`` the mean weight that is elsewhere, half the sum of
    absolute differences; NaN where a file has no weights.

    Args:
        one: Routes.
        other: Routes of the same model.
        mine_N: Tokens of the first.
        theirs_N: The same tokens in the second.
    """
    weighed = one.weights_NLK is not None and other.weights_NLK is not None
    rows = []
    for at, layer in enumerate(one.layers):
        sums = np.zeros(3)
        for start in range(0, len(mine_N), CHUNK):
            a, b = mine_N[start : start + CHUNK], theirs_N[start : start + CHUNK]
            mine_NK, theirs_NK = one.experts_NLK[a, at], other.experts_NLK[b, at]
            same_NKK = (mine_NK[:, :, None] == theirs_NK[:, None, :]) & (mine_NK != UNUSED)[:, :, None]
            both_N = same_NKK.sum((1, 2))
            most_N = np.maximum((mine_NK != UNUSED).sum(-1), (theirs_NK != UNUSED).sum(-1))
            overlap_N = np.where(most_N > 0, both_N / np.maximum(most_N, 1), 1.0)
            sums[:2] += (both_N < most_N).sum(), overlap_N.sum()
            if weighed:
                sums[2] += _moved(same_NKK, _weights(one, at)[a], _weights(other, at)[b])
        rows.append((layer, *(sums / len(mine_N))))
    frame = pd.DataFrame(rows, columns=["layer", "other_set", "overlap", "moved"])
    return frame if weighed else frame.assign(moved=np.nan)


def _weights(routes: Routes, at: int) -> NDArray[np.float64]:
    assert routes.weights_NLK is not None
    return np.where(routes.experts_NLK[:, at] != UNUSED, routes.weights_NLK[:, at], 0.0).astype(np.float64)


def _moved(same_NKK: NDArray[np.bool_], mine_NK: NDArray[np.float64], theirs_NK: NDArray[np.float64]) -> float:
    shared = (np.abs(mine_NK[:, :, None] - theirs_NK[:, None, :]) * same_NKK).sum()
    alone = (mine_NK * ~same_NKK.any(2)).sum() + (theirs_NK * ~same_NKK.any(1)).sum()
    return float(shared + alone) / 2
