"""Pruning from end to end: experts are chosen, masked or removed for real, and the model is judged before and after."""

import gc
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.commit import git_commit
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.published import published, write_json
from moe_tune.data.module import QuizDataModule
from moe_tune.heads.base import RouterHead
from moe_tune.heads.fixed_k import FixedKHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.heads.stack import Stack
from moe_tune.models.base_model import BaseModel
from moe_tune.models.removed_experts import cut_of, refuse_uncuttable, removed
from moe_tune.models.written_model import write_model
from moe_tune.pruning.before_after import BeforeAfter, compared_sets
from moe_tune.pruning.choice import going, number_of
from moe_tune.pruning.costs import ModelCosts, measured_costs, size_on_disk
from moe_tune.pruning.criteria.base import Criterion
from moe_tune.pruning.evidence import gathered
from moe_tune.pruning.judged_model import JudgedSet, judged_model, sets_of
from moe_tune.routing import Scope
from moe_tune.runs.directory import identity, now, to_yaml
from moe_tune.runs.ledger import record, require_ledger
from moe_tune.tuner.opening import ModelSettings, OpenModel, open_model
from moe_tune.tuner.router_tuner import RouterTuner

How = Literal["mask", "remove"]
MASKED, ABOUT = "masked.yaml", "pruning.json"
"""What a folder of pruning holds: the configuration of a masked model, and what was chosen by what."""
DTYPES = ("float32", "bfloat16", "float16")
Numerics = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSettings:
    """How a model is to be pruned.

    Args:
        criterion: Which experts go.
        out: A new folder: the pruned model's, or of the configuration that masks.
        share: Share of each layer's experts that go; or
        count: how many of each layer. Without both, all that the criterion lets go.
        how: ``mask`` leaves the weights and never chooses the experts; ``remove`` writes a smaller model.
        scope: Which tokens count for the choice.
        split: Whose questions it is made on: ``train``, or ``validation``, which then judges nothing.
        top_k: Experts per token afterwards; ``None`` keeps K.
        test: Whether the quiz's test split is opened, too.
    """

    criterion: Criterion
    out: Path
    share: float | None = None
    count: int | None = None
    how: How = "remove"
    scope: Scope = "all"
    split: Literal["train", "validation"] = "train"
    top_k: int | None = None
    test: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """What came of pruning.

    Attributes:
        gone: The experts of each layer that went.
        chosen_on: What they were chosen on, as a line.
        note: What belongs beside the choice.
        before: What the model cost.
        after: What it costs now.
        sets: What it still can.
    """

    gone: dict[int, list[int]]
    chosen_on: str
    note: str
    before: ModelCosts
    after: ModelCosts
    sets: list[BeforeAfter]


def prune(
    host: RouterTuner,
    quiz: QuizDataModule,
    trainer: Trainer,
    asked: PruneSettings,
    config: Mapping[str, Any] | None = None,
) -> Pruned:
    """Choose experts, take them from a model, and judge it before and after on the same held-out questions.

    Args:
        host: The configuration's model, not loaded; its head and layers do not count: it is the model that is pruned.
        quiz: The data.
        trainer: On which hardware, and with which numerics.
        asked: How.
        config: The resolved configuration, for the ledger.

    Raises:
        ConfigError: What is asked for does not fit the model, or nothing is held out.
        ModelError: The model cannot be cut.
    """
    names = _refuse_early(host, quiz, asked)
    quiz.split_alone()
    quiz.prepare(host.tokenizer, host.context_length)
    numerics = trainer.precision_plugin.forward_context
    settings = replace(host.asked, head=IdentityHead(), losses={}, layers="all", scope="answer", peft=None)
    device = trainer.strategy.root_device
    opened = open_model(settings, device)
    gone, chosen_on, note = _chosen(opened, quiz, asked, numerics)
    rank_zero_info(f"{chosen_on}: {sum(map(len, gone.values())):,} experts go. {note}".rstrip())
    sets_before = judged_model(opened, quiz, names, numerics)
    costs_before = measured_costs(opened, quiz, size_on_disk(host.base.source), numerics)
    del opened
    _free()
    pruned = _masked(settings, gone, asked) if asked.how == "mask" else _smaller(settings, gone, asked)
    opened = open_model(pruned, device)
    sets_after = judged_model(opened, quiz, names, numerics)
    costs_after = measured_costs(opened, quiz, size_on_disk(pruned.base.source), numerics)
    costs_after = replace(costs_after, top_k=asked.top_k or costs_after.top_k)  # a mask leaves the router its K
    for one in (sets_before, sets_after):
        _record(one, asked, config or {})
    sets = compared_sets(sets_before, sets_after, quiz.seed)
    return Pruned(gone, chosen_on, note, costs_before, costs_after, sets)


def _refuse_early(host: RouterTuner, quiz: QuizDataModule, asked: PruneSettings) -> list[str]:
    """Return the names of the sets that judge, after refusing what can be refused before a model is loaded."""
    require(not host.peft, "a model without a LoRA", host.peft, "model.peft", "leave it out.")
    hint = "give the name of a new one."
    require(not asked.out.exists(), "a folder that does not exist yet", str(asked.out), "--out", hint)
    names = sets_of(quiz, asked.test)
    known = asked.criterion.seen()
    hint = "measure the effects on training questions, or say --split validation and open another set."
    require(
        known <= {"train", asked.split}, f"what was measured on {asked.split} questions", sorted(known), "prune", hint
    )
    if asked.split == "validation":
        names.remove("validation")
        if not names:
            raise ConfigError(
                "expected other questions than those that experts are chosen on but got none (--split validation). "
                "Hint: --split train, or --test to open the test split, or data.test_sources."
            )
    if asked.how == "remove":
        packed = host.base.quantise
        require(not packed, "weights in a plain dtype", packed, "model.base.quantise", "prune first, then quantise.")
        refuse_uncuttable(host.base.load_config(), top_k=asked.top_k)
    if any(name.startswith("test") for name in names):
        require_ledger()
    return names


def _chosen(
    opened: OpenModel, quiz: QuizDataModule, asked: PruneSettings, numerics: Numerics
) -> tuple[dict[int, list[int]], str, str]:
    """Return the experts that go, what they were chosen on, and what belongs beside the choice."""
    gate = next(iter(opened.gated.gates.values()))
    experts, slots = gate.rule.num_experts, gate.rule.top_k
    groups = 1 if gate.replay.groups is None else gate.replay.groups.number
    even = asked.how == "remove"
    count = number_of(asked.share, asked.count, experts, groups if even else 1)
    wanted = slots if asked.top_k is None else asked.top_k
    require(1 <= wanted <= slots, f"1 to {slots} experts per token", wanted, "--top_k", "leave it out to keep K.")
    least = wanted if even else slots  # who only masks keeps the router, which chooses K before fewer are used
    hint = f"a token needs {least}."
    require(count is None or experts - count >= least, f"at most {experts - least} of {experts}", count, "prune", hint)
    examiner = opened.examiner(quiz, numerics=numerics)
    seen = gathered(examiner, asked.criterion, asked.split, asked.scope)
    scores_LE, note = asked.criterion.scores(seen), asked.criterion.note(seen)
    gone = going(scores_LE, seen, count, groups, even=even)
    if not any(gone.values()):
        raise ConfigError(
            f"expected experts that may go but {type(asked.criterion).__name__} lets none go"
            f"{' of every layer and group, equally many' if even else ''} (prune). "
            "Hint: another criterion, or --how mask."
        )
    if even:
        refuse_uncuttable(opened.gated.model.config, experts - len(next(iter(gone.values()))), asked.top_k)
    else:
        opened.gated.bind(masking_head(gone, asked.top_k), "all")  # refuses too few before anything is judged
    asking = f"{seen.questions:,} {asked.split} questions, scope {asked.scope}" if seen.questions else "no question"
    chosen_on = f"chosen by {type(asked.criterion).__name__} on {asking}"
    going_on, may = sum(map(len, gone.values())), sum(map(len, going(scores_LE, seen, count).values()))
    if going_on < may:
        note += (
            f" Of {may:,} experts that may go {going_on:,} do: a model's configuration holds one number of experts, so "
            "that each layer, and each group, loses equally many; --how mask takes them all."
        )
    return gone, chosen_on, note.strip()


def masking_head(gone: Mapping[int, list[int]], top_k: int | None = None) -> RouterHead:
    """Return the head with which a model does without experts.

    Args:
        gone: The experts of each layer that are never chosen.
        top_k: Experts per token; ``None`` keeps K.
    """
    mask = MaskedExperts({layer: list(some) for layer, some in gone.items() if some})
    return mask if top_k is None else Stack({"mask": mask, "fewer": FixedKHead(top_k)})


def _masked(settings: ModelSettings, gone: dict[int, list[int]], asked: PruneSettings) -> ModelSettings:
    """Return the settings of the masked model, after writing them down."""
    mask = {"class_path": "MaskedExperts", "init_args": {"experts": {key: one for key, one in gone.items() if one}}}
    head: dict[str, Any] = mask
    if asked.top_k is not None:
        fewer = {"class_path": "FixedKHead", "init_args": {"k": asked.top_k}}
        head = {"class_path": "Stack", "init_args": {"parts": {"mask": mask, "fewer": fewer}}}
    with published(asked.out) as draft:
        draft.mkdir()
        model = {"layers": "all", "scope": "all", "head": head}
        (draft / MASKED).write_text(to_yaml({"model": model}), encoding="utf-8")
        write_json(draft / ABOUT, _about(settings.base, gone, asked))
    return replace(settings, head=masking_head(gone, asked.top_k), scope="all")


def _smaller(settings: ModelSettings, gone: dict[int, list[int]], asked: PruneSettings) -> ModelSettings:
    """Return the settings of the smaller model, after writing it in the dtype it was published in."""
    about = json.dumps(_about(settings.base, gone, asked), indent=2, sort_keys=True) + "\n"
    remove_experts(settings.base, gone, asked.out, asked.top_k, {ABOUT: about})
    _free()
    return replace(settings, base=replace(settings.base, path=str(asked.out), revision=None, tokenizer=None))


def remove_experts(
    base: BaseModel,
    gone: Mapping[int, list[int]],
    out: Path,
    top_k: int | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model without some of its experts as a folder that plain transformers loads; each tensor is read back.

    Args:
        base: The model.
        gone: The experts of each layer that go: equally many of each, and of each group.
        out: A new folder.
        top_k: Experts per token; ``None`` keeps K.
        beside: Text of further files, by name.

    Raises:
        ConfigError: Another number goes from some layer or group, or the folder exists.
        ModelError: The model cannot be cut, or is not read back as it was written.
    """
    published_in = str(base.load_config().dtype).removeprefix("torch.")
    dtype: Any = published_in if published_in in DTYPES else base.dtype
    plain = replace(base, dtype=dtype, experts_implementation="eager", gradient_checkpointing=False)
    tokenizer = base.load_tokenizer()
    model, family = plain.load()
    layers = family.moe_layers(model)
    experts = {layer: family.replay(block, layer).num_experts for layer, block in layers.items()}
    kept = {layer: [one for one in range(experts[layer]) if one not in set(gone.get(layer, ()))] for layer in layers}
    cut = cut_of(model, family, min(map(len, kept.values())), top_k)
    state, generation = removed(model, family, cut, kept), model.generation_config
    del model, layers  # what is written is read back, and shall not be in memory twice
    write_model(out, cut.config, state, tokenizer, generation, beside)


def _about(base: BaseModel, gone: dict[int, list[int]], asked: PruneSettings) -> dict[str, Any]:
    options = {key: one for key, one in vars(asked.criterion).items() if not key.startswith("_")}
    return {
        "base": {"path": base.path, "revision": base.revision},
        "criterion": {"name": type(asked.criterion).__name__, **options},
        "how": asked.how,
        "scope": asked.scope,
        "split": asked.split,
        "top_k": asked.top_k,
        "gone": {str(layer): some for layer, some in gone.items()},
    }


def _record(sets: Mapping[str, JudgedSet], asked: PruneSettings, config: Mapping[str, Any]) -> None:
    """Record the tests that were opened in the ledger."""
    about = {"config": identity(dict(config)), "commit": git_commit(Path.cwd()), "run": asked.out.name, "time": now()}
    for one in sets.values():
        if one.opened is not None:
            record(asdict(one.opened) | about, None)


def _free() -> None:
    """Let go of a model's memory before the next is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
