"""An audit by intervention whose effects are made up."""

import numpy as np
import pandas as pd
import torch

from moe_tune.interventions.audit import AblationAsked, Audit
from moe_tune.interventions.bridge import bridge_frame, observed
from moe_tune.interventions.effects import Differences, effect_frame, interaction_frame
from moe_tune.interventions.patches import BACK, INTO
from moe_tune.interventions.plan import Intervention, single
from moe_tune.interventions.untouched import LayerFacts, Untouched

LAYERS, EXPERTS, QUESTIONS = (1, 2), 12, 60


def made_up_audit(kind="mask", scope="answer", seed=0):
    """Return an audit of two layers of twelve experts, expert 3 of layer 1 with an effect, and a set."""
    draw = np.random.default_rng(seed)
    log_probs_QA = torch.from_numpy(draw.normal(size=(QUESTIONS, 4))).log_softmax(-1).float()
    untouched = Untouched(log_probs_QA, torch.from_numpy(draw.integers(0, 4, QUESTIONS)))
    for layer in LAYERS:
        weight_QE = torch.from_numpy(
            draw.random((QUESTIONS, EXPERTS)) * (draw.random((QUESTIONS, EXPERTS)) < 0.4)
        ).float()
        chosen_QE = weight_QE > 0
        untouched.layers[layer] = LayerFacts(chosen_QE, weight_QE, 2 * weight_QE, chosen_QE.sum(0), tokens=QUESTIONS)
    singles = [single(kind, layer, expert) for layer in LAYERS for expert in range(EXPERTS)]
    whole = [Intervention("drop", ((layer, tuple(range(EXPERTS))),)) for layer in LAYERS]
    pair = Intervention(kind, ((1, (3, 4)),))
    every = [*singles, *whole, pair]
    change = {one: draw.normal(-0.5 if one == single(kind, 1, 3) else 0, 0.1, QUESTIONS) for one in every}
    turned = {one: draw.integers(-1, 2, QUESTIONS).astype(float) for one in every}
    found = Differences(change, turned, {one: value**2 for one, value in change.items()})
    cluster_Q = np.arange(QUESTIONS)
    experts, layers, sets = (
        effect_frame(some, found, untouched, cluster_Q, scope) for some in (singles, whole, [pair])
    )
    experts.insert(0, "expert", [one.members[0][1][0] for one in singles])
    experts.insert(0, "layer", [one.start for one in singles])
    layers.insert(0, "layer", LAYERS)
    sets.insert(0, "set", ["pair"])
    named = {layer: list(range(EXPERTS)) for layer in LAYERS}
    once_Q = np.ones(QUESTIONS)
    seen = [
        pd.DataFrame({"layer": layer, "expert": named[layer], **{name: one(once_Q) for name, one in known.items()}})
        for layer in LAYERS
        for known in [observed(untouched.layers[layer], untouched, named[layer])]
    ]
    rows = [
        {"direction": way, "layer": layer, **dict.fromkeys(ENDS, 0.01), "p": 0.5, "share": 1.0}
        for way in (INTO, BACK)
        for layer in (*LAYERS, -1)
    ]
    return Audit(
        AblationAsked("nano", None, kind, "all", None, {"pair": pair.members}, scope, "validation", None, 100),
        {"model": "nano", "router": "pretrained", "questions": "60 of the validation split"},
        experts,
        layers,
        sets.join(interaction_frame([pair], found, cluster_Q)),
        bridge_frame(kind, named, found, untouched, cluster_Q, draws=100),
        pd.concat(seen, ignore_index=True).assign(evidence="associational"),
        pd.DataFrame(rows),
    )


ENDS = [f"{name}{end}" for name in ("log_prob", "accuracy") for end in ("", "_low", "_high")]
