"""Pruning from end to end: experts are chosen, masked or removed for real, and the model is judged before and after."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.commit import git_commit
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.memory import let_go
from moe_tune.data.module import QuizDataModule
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.removed_experts import refuse_uncuttable
from moe_tune.pruning.applied import mask_config, masked_model, masking_head, smaller_model
from moe_tune.pruning.before_after import BeforeAfter, compared_sets
from moe_tune.pruning.choice import going, number_of
from moe_tune.pruning.costs import ModelCosts, measured_costs, size_on_disk
from moe_tune.pruning.evidence import gathered
from moe_tune.pruning.judged_model import JudgedSet, judged_model, sets_of
from moe_tune.pruning.prune_settings import PruneSettings
from moe_tune.pruning.repair import Repaired, came_back, repaired_settings, run_repair
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import identity, now
from moe_tune.runs.ledger import record, require_ledger
from moe_tune.tuner.opening import OpenModel, open_model
from moe_tune.tuner.router_tuner import RouterTuner

Numerics = Callable[[], AbstractContextManager[object]]


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
        repaired: What it can again after a repair; empty without one.
    """

    gone: dict[int, list[int]]
    chosen_on: str
    note: str
    before: ModelCosts
    after: ModelCosts
    sets: list[BeforeAfter]
    repaired: list[Repaired]


def prune(
    host: RouterTuner,
    quiz: QuizDataModule,
    trainer: Trainer,
    asked: PruneSettings,
    config: Mapping[str, Any] | None = None,
    plugins: dict[str, str] | None = None,
) -> Pruned:
    """Choose experts, take them from a model, and judge it before and after on the same held-out questions.

    Args:
        host: The configuration's model, not loaded; its head and layers do not count: it is the model that is pruned.
        quiz: The data.
        trainer: On which hardware, and with which numerics.
        asked: How.
        config: The resolved configuration: for the ledger, and what a repair trains with.
        plugins: sha256 of the user's plug-in files, by path.

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
    _record(sets_before, asked, config or {})  # at once: whatever comes after it, a test has been read
    costs_before = measured_costs(opened, quiz, size_on_disk(host.base.source), numerics)
    del opened
    let_go()
    pruned = masked_model(settings, gone, asked) if asked.how == "mask" else smaller_model(settings, gone, asked)
    let_go()
    opened = open_model(pruned, device)
    sets_after = judged_model(opened, quiz, names, numerics)
    _record(sets_after, asked, config or {})
    costs_after = measured_costs(opened, quiz, size_on_disk(pruned.base.source), numerics)
    costs_after = replace(costs_after, top_k=asked.top_k or costs_after.top_k)  # a mask leaves the router its K
    sets, repaired = compared_sets(sets_before, sets_after, quiz.seed), []
    if asked.repair is not None:
        del opened
        let_go()
        mask = mask_config(gone, asked.top_k) if asked.how == "mask" else None
        teacher = None if asked.how == "mask" else host.base
        checkpoint = run_repair(pruned, mask, teacher, asked.repair, asked.out, config or {}, plugins or {})
        opened = open_model(repaired_settings(pruned), device)
        opened.restore(RouterCheckpointIO().load_checkpoint(checkpoint))
        sets_again = judged_model(opened, quiz, names, numerics)
        _record(sets_again, asked, config or {})
        again = compared_sets(sets_after, sets_again, quiz.seed)
        back = [came_back(sets_before[name], sets_after[name], sets_again[name]) for name in names]
        repaired = [Repaired(one, share) for one, share in zip(again, back, strict=True)]
    return Pruned(gone, chosen_on, note, costs_before, costs_after, sets, repaired)


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
    if asked.repair == "text" and quiz.text is None:
        raise ConfigError("expected text to repair on but got none (--repair text). Hint: --config task/next_token.")
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
    asking = (
        f"{seen.questions:,} {asked.split} questions, scope {asked.scope}"
        if seen.questions
        else "no question asked here"
    )
    chosen_on = f"chosen by {type(asked.criterion).__name__} on {asking}"
    going_on, may = sum(map(len, gone.values())), sum(map(len, going(scores_LE, seen, count).values()))
    if going_on < may:
        note += (
            f" Of {may:,} experts that may go {going_on:,} do: a model's configuration holds one number of experts, so "
            "that each layer, and each group, loses equally many; --how mask takes them all."
        )
    return gone, chosen_on, note.strip()


def _record(sets: Mapping[str, JudgedSet], asked: PruneSettings, config: Mapping[str, Any]) -> None:
    """Record the tests that were opened in the ledger."""
    about = {"config": identity(dict(config)), "commit": git_commit(Path.cwd()), "run": asked.out.name, "time": now()}
    for one in sets.values():
        if one.opened is not None:
            record(asdict(one.opened) | about, None)
