"""An audit by intervention from the first pass to its tables; killed in the middle it goes on where it was."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.analysis.kept import Part, keep, kept
from moe_tune.base.checkpoint_folder import MANIFEST
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.published import tidied
from moe_tune.data.batching import Batch
from moe_tune.heads.identity import IdentityHead
from moe_tune.interventions.answers import answers_under, arrays_of
from moe_tune.interventions.bridge import bridge_frame, observed
from moe_tune.interventions.effects import Differences, differences, effect_frame, interaction_frame
from moe_tune.interventions.heads import Heads, entry
from moe_tune.interventions.patches import patch_frame
from moe_tune.interventions.plan import Intervention, Kind, Members, reference_draws, refuse_unknown, single
from moe_tune.interventions.untouched import Untouched, seen_untouched
from moe_tune.interventions.walk import Walk, walk_of
from moe_tune.routing import Scope
from moe_tune.routing.layer_choice import choose_layers
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import environment, identity
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.tuner.opening import OpenModel, open_model

LAYERS = "layers"
"""Folder of the answers under every intervention, a part per layer."""
PATCHES = "patches"


@dataclass(frozen=True, slots=True)
class AblationAsked:
    """What is asked of an audit.

    Attributes:
        name: Short name of the model or the run.
        checkpoint: The trained heads; ``None`` audits the pretrained router.
        kind: What happens to experts.
        layers: Which layers.
        experts: Which experts of each; ``None`` is all.
        sets: Named sets of experts.
        scope: Where interventions act.
        split: Which questions.
        questions: How many of them, sampled by subject; ``None`` is all.
        draws: Bootstrap draws of the bridge.
    """

    name: str
    checkpoint: Path | None
    kind: Kind
    layers: str | list[int]
    experts: list[int] | None
    sets: Mapping[str, Members]
    scope: Scope
    split: str
    questions: int | None
    draws: int


@dataclass(slots=True, eq=False)
class Audit:
    """What an audit came to.

    Attributes:
        asked: What was asked.
        about: Facts for people.
        experts: Effects of single experts.
        layers: Effects of all experts of a layer at once, dropped.
        sets: Effects of named sets, and what is beyond those of their members.
        bridge: What is observed of experts, against their effects.
        observed: What is observed of them.
        patches: Router decisions copied between the pretrained and the retuned model; empty without a run.
    """

    asked: AblationAsked
    about: dict[str, str]
    experts: pd.DataFrame
    layers: pd.DataFrame
    sets: pd.DataFrame
    bridge: pd.DataFrame
    observed: pd.DataFrame
    patches: pd.DataFrame = field(default_factory=pd.DataFrame)


def audit(asked: AblationAsked, host: FitSettings, out: Path) -> Audit:
    """Carry out every intervention, keep the answers under them in a folder, and return the tables.

    Raises:
        ConfigError: What is asked cannot be served by this model, layer or split.
    """
    opened, retuned = _opened(asked, host)
    gated, quiz = opened.gated, host.datamodule
    layers = choose_layers(asked.layers, list(gated.gates))
    named = {name: Intervention(asked.kind, members) for name, members in asked.sets.items()}
    experts = asked.experts if asked.experts is not None else list(range(gated.rule.num_experts))
    singles = [single(asked.kind, layer, expert) for layer in layers for expert in experts]
    for one in [*singles, *named.values()]:
        refuse_unknown(one, list(gated.gates), gated.rule.num_experts)
    for one in named.values():
        if one.kind == "mask":
            entry(gated, retuned, one, {})  # refuses what leaves too few experts, before anything is computed
    singles = list(dict.fromkeys([*singles, *(other for one in named.values() for other in one.singles())]))
    looked_at = sorted({layer for one in [*singles, *named.values()] for layer, _ in one.members})
    _sampled(asked, host)
    walk = walk_of(
        opened.examiner(quiz, layers=[*looked_at, *retuned]), asked.split, [*looked_at, *retuned], asked.scope
    )
    batches = list(walk.examiner.quiz.loader(asked.split))
    began = time.monotonic()
    untouched = seen_untouched(walk, batches, retuned, looked_at, means=asked.kind == "mean")
    seconds = time.monotonic() - began

    usage = {layer: facts.usage_E for layer, facts in untouched.layers.items()}
    every_expert = tuple(range(gated.rule.num_experts))
    whole = [Intervention("drop", ((layer, every_expert),)) for layer in layers]
    others = [other for one in [*singles, *named.values()] for other in reference_draws(one, usage)]
    every = list(dict.fromkeys([*singles, *whole, *named.values(), *others]))
    _tell(asked, walk, every, len(untouched.gold_Q), seconds, len(gated.model.base_model.layers))
    found = _found(asked, host, walk, batches, retuned, untouched, every, out)

    cluster_Q = pd.factorize(pd.Series([one.content_hash for one in quiz.questions(asked.split)]))[0]
    frame = effect_frame(singles, found, untouched, cluster_Q, asked.scope).assign(split=asked.split)
    places = [one.members[0] for one in singles]
    frame.insert(0, "expert", [some[0] for _, some in places])
    frame.insert(0, "layer", [layer for layer, _ in places])
    of_layers = effect_frame(whole, found, untouched, cluster_Q, asked.scope).assign(split=asked.split)
    of_layers.insert(0, "layer", layers)
    of_sets = pd.DataFrame()
    if named:
        of_sets = effect_frame([*named.values()], found, untouched, cluster_Q, asked.scope).assign(split=asked.split)
        of_sets.insert(0, "set", [*named])
        of_sets = of_sets.join(interaction_frame([*named.values()], found, cluster_Q))
    several = {layer: experts for layer in layers if len(experts) > 2}
    bridge = bridge_frame(asked.kind, several, found, untouched, cluster_Q, asked.draws)
    patches = pd.DataFrame()
    if retuned:
        patches = _patched(asked, host, walk, batches, retuned, cluster_Q, out)
    return Audit(
        asked, _about(asked, opened, walk, untouched, cluster_Q), frame, of_layers, of_sets, bridge,
        _observed(untouched), patches,
    )  # fmt: skip


def _opened(asked: AblationAsked, host: FitSettings) -> tuple[OpenModel, Heads]:
    """Return the model, and the heads that act in it: those of the run, or none."""
    if host.model.peft:
        raise ConfigError(
            "expected heads alone but got a LoRA, which changes every token (model.peft). Hint: leave it out."
        )
    trainer = host.trainer_for(devices=1, num_nodes=1)
    device = trainer.strategy.root_device
    asked_model = replace(host.model.asked, losses={})
    if asked.checkpoint is None:
        opened = open_model(replace(asked_model, head=IdentityHead(), layers="all", scope="answer"), device)
        heads: Heads = {}
    else:
        hint = f"a run that was trained at scope {asked.scope}, or --scope {host.model.scope}."
        same = host.model.scope == asked.scope
        require(same, f"the scope of the run's heads, {host.model.scope},", asked.scope, "--scope", hint)
        opened = open_model(asked_model, device)
        opened.restore(RouterCheckpointIO().load_checkpoint(asked.checkpoint))
        opened.gated.train(False)
        heads = opened.gated.heads
        choosing = [type(one).__name__ for one in heads.values() if one.chooses() or one.traits.knows_tokens]
        hint = "audit the run without it."
        require(not choosing, "a head that acts on every question alike", choosing[:1], "ablate", hint)
    for head in heads.values():
        head.set_progress(1.0)
    host.datamodule.prepare(host.model.tokenizer, host.model.context_length)
    return opened, heads


def _sampled(asked: AblationAsked, host: FitSettings) -> None:
    """Go on with a sample of the questions, where there are more than are asked for."""
    quiz = host.datamodule
    if asked.questions is not None and asked.questions < len(quiz.questions(asked.split)):
        quiz.limit(asked.split, asked.questions)


def _tell(
    asked: AblationAsked, walk: Walk, every: Sequence[Intervention], questions: int, seconds: float, layers: int
) -> None:
    way = "answer tokens over kept prompts" if walk.keeps else "whole prompts"
    share = sum(layers - one.start for one in every) / layers
    rank_zero_info(
        f"ablate: {asked.kind}, scope {asked.scope}, {asked.split}: {len(every):,} interventions x {questions:,} "
        f"questions on {way}, at most about {max(1, round(seconds * share / 60)):,} min"
    )


def _found(
    asked: AblationAsked,
    host: FitSettings,
    walk: Walk,
    batches: Sequence[Batch],
    router: Heads,
    untouched: Untouched,
    every: Sequence[Intervention],
    out: Path,
) -> Differences:
    """Return what every intervention changes; layers that are done already are read."""
    answers: dict[Intervention, dict[str, Any]] = {}
    if (out / LAYERS).is_dir():
        tidied(out / LAYERS)  # what a killed audit was writing
    starts = sorted({one.start for one in every})
    for place, start in enumerate(starts, start=1):
        many = [one for one in every if one.start == start]
        told = [[one.kind, one.members] for one in many]
        key, folder = _key(asked, host, walk, told), out / LAYERS / str(start)
        part = kept(folder, key)
        if part is None:
            name = f"layer {start} ({place} of {len(starts)})"
            frame = answers_under(walk, batches, router, untouched, many, name)
            part = keep(Part({"answers": frame}, {"interventions": told}), folder, key)
        else:
            rank_zero_info(f"layer {start}: kept in {folder}")
        arrays = arrays_of(part.tables["answers"])
        answers |= {one: {what: values[at] for what, values in arrays.items()} for at, one in enumerate(many)}
    return differences(untouched, answers)


def _patched(
    asked: AblationAsked,
    host: FitSettings,
    walk: Walk,
    batches: Sequence[Batch],
    retuned: Heads,
    cluster_Q: Any,
    out: Path,
) -> pd.DataFrame:
    key, folder = _key(asked, host, walk, PATCHES), out / PATCHES
    part = kept(folder, key)
    if part is None:
        part = keep(Part({PATCHES: patch_frame(walk, batches, retuned, cluster_Q)}), folder, key)
    return part.tables[PATCHES]


def _key(asked: AblationAsked, host: FitSettings, walk: Walk, what: object) -> str:
    """Return what answers follow from: configuration, heads, plug-ins, versions, questions, and what is done."""
    heads = None if asked.checkpoint is None else (asked.checkpoint / MANIFEST).read_text(encoding="utf-8")
    asked_of = [one.id for one in walk.examiner.quiz.questions(asked.split)]
    words = [asked.split, asked.scope, walk.examiner.gated.fingerprint, asked_of, what]
    values = [identity(host.configuration), heads, host.plugins, environment(), *words]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _observed(untouched: Untouched) -> pd.DataFrame:
    """Return what is observed of every expert of the layers, a row each."""
    frames = []
    for layer, facts in untouched.layers.items():
        every = list(range(facts.chosen_QE.shape[1]))
        once_Q = np.ones(len(untouched.gold_Q))
        columns = {name: metric(once_Q) for name, metric in observed(facts, untouched, every).items()}
        frames.append(pd.DataFrame({"layer": layer, "expert": every, **columns}))
    return pd.concat(frames, ignore_index=True).assign(evidence="associational")


def _about(asked: AblationAsked, opened: OpenModel, walk: Walk, untouched: Untouched, cluster_Q: Any) -> dict[str, str]:
    questions, clusters = len(untouched.gold_Q), int(cluster_Q.max()) + 1
    return {
        "model": str(opened.asked.base.path),
        "router": "pretrained" if asked.checkpoint is None else f"retuned, {asked.name}",
        "questions": f"{questions:,} of the {asked.split} split in {clusters:,} clusters of equal content",
        "protocol": walk.examiner.quiz.protocol_name(asked.split),
        "scope": asked.scope,
        "accuracy untouched": f"{100 * float(untouched.correct_Q.double().mean()):.2f} %",
        "way": "answer tokens over kept prompts" if walk.keeps else "whole prompts",
    }
