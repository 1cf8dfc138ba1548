"""Controls: was it the router? The arm that did best on validation, against nine simpler explanations."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel

from moe_tune.base.errors import MoeTuneError
from moe_tune.base.found import tested_checkpoint
from moe_tune.compare.columns import points
from moe_tune.compare.control import Control, Outcome
from moe_tune.compare.runs import Run, load_run
from moe_tune.reports.table import interval
from moe_tune.runs.answers import BASE, questions_file
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.stats.letter_offsets import fitted_offsets, padded
from moe_tune.stats.letter_quality import letter_quality
from moe_tune.stats.paired import PairedResult, compare_paired
from moe_tune.studies.bench import ArmRun, Bench
from moe_tune.studies.random_change import DRAWS, random_changes

ROTATIONS = (1, 2, 3)
LORA_ON = ("q_proj", "v_proj")
"""What the parameter-matched alternative adapts."""


@dataclass(frozen=True, slots=True, eq=False)
class Controlled:
    """The arm that is put under controls.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        runs: Its runs, by seed.
        argv: Arguments of the fit of each seed.
        split: The primary split.
    """

    experiment: str
    arm: str
    runs: Sequence[Run]
    argv: dict[int, list[str]]
    split: str


def control_with(bench: Bench) -> Callable[[Controlled], list[Control]]:
    """Return what puts an arm under all controls on a bench; a control that cannot run says why."""

    def control(one: Controlled) -> list[Control]:
        return [_outcome(code, made, bench, one) for code, made in CONTROLS.items()]

    return control


def _outcome(code: str, made: "_Made", bench: Bench, one: Controlled) -> Control:
    control, excludes, criterion, run = made
    try:
        found, passed = run(bench, one)
    except MoeTuneError as fault:
        return Control(code, control, excludes, str(fault).partition(" Hint:")[0], criterion, "not run")
    outcome: Outcome = "reported" if passed is None else "passed" if passed else "failed"
    return Control(code, control, excludes, found, criterion, outcome)


def _letter_bias(bench: Bench, one: Controlled) -> tuple[str, bool]:
    base, tuned = _base(one.runs[0], one.split), [run.questions[one.split] for run in one.runs]
    seen = _base(one.runs[0], "validation")
    offsets_A = fitted_offsets(padded(list(seen["log_probs"])), seen["gold"].to_numpy())
    table_QA = padded(list(base["log_probs"]))
    width = min(table_QA.shape[1], len(offsets_A))
    table_QA[:, :width] += offsets_A[:width]
    biased_Q = table_QA.argmax(axis=1) == base["gold"].to_numpy()
    gain = biased_Q.mean() - _right(base).mean()
    result = _paired(biased_Q, tuned, one)
    return (
        f"letters alone {points(gain)}; beyond them {points(result.diff)} {interval(*result.told_ci95)}",
        result.ci95[0] > 0,
    )


def _rotated(bench: Bench, one: Controlled) -> tuple[str, bool]:
    gains, spreads = [], []
    for run in one.runs:
        source = _source(run)
        rotated = {f"rotated{by}": _wrapped("RotatedChoices", source, by=by) for by in ROTATIONS}
        tested = _again(bench, one, run, "rotated", f"--data.test_sources={json.dumps(rotated)}")
        splits = [one.split, *(f"test_rotated{by}" for by in ROTATIONS)]
        pairs = [(_base(tested, split), tested.questions[split]) for split in splits]
        gains.append([_right(after).mean() - _right(before).mean() for before, after in pairs])
        spreads.append([[_spread(frame) for frame in pair] for pair in pairs])
    gain_R = np.mean(gains, axis=0)
    before, after = np.mean(spreads, axis=(0, 1))
    whole = float(np.mean(gain_R))
    survives = whole / gain_R[0] if gain_R[0] else 0.0
    found = (
        f"{points(whole)} over all four orders of {points(gain_R[0])}, {100 * survives:.0f} %; "
        f"letter bias {100 * before:.1f} -> {100 * after:.1f} points"
    )
    return found, survives >= 0.5 and after <= before


def _cloze(bench: Bench, one: Controlled) -> tuple[str, bool]:
    diffs = []
    for run in one.runs:
        tested = _again(bench, one, run, "cloze", '--data.test_protocols=["cloze"]')
        before, after = _base(tested, "test_cloze"), tested.questions["test_cloze"]
        diffs.append(_right(after).mean() - _right(before).mean())
    gain = _gain(one)
    return f"{points(float(np.mean(diffs)))} without letters, {points(gain)} with", float(np.mean(diffs)) * gain > 0


def _shuffled(bench: Bench, one: Controlled) -> tuple[str, bool]:
    runs = []
    for run in one.runs:
        source = json.dumps(_wrapped("ShuffledLabels", _source(run), seed=run.seed))
        runs.append(_fitted(bench, one, run, "shuffled", f"--data.source={source}"))
    result = _against_pretrained(runs, one)
    # A loss is no sign of a leak: such labels unlearn what the pretrained router can.
    return f"{points(result.diff)} {interval(*result.told_ci95)}", result.ci95[0] <= 0


def _random(bench: Bench, one: Controlled) -> tuple[str, bool]:
    run = one.runs[len(one.runs) // 2]
    checkpoint = _checkpoint(run)
    drawn = random_changes(one.argv[run.seed], bench.plugins, bench.workbench, checkpoint, one.split)
    trained, before = _right(run.questions[one.split]).mean(), _right(_base(run, one.split)).mean()
    found = f"{DRAWS} draws {points(drawn.min() - before)} to {points(drawn.max() - before)}, "
    return f"{found}trained {points(trained - before)} (seed {run.seed})", bool(trained > drawn.max())


def _lora(bench: Bench, one: Controlled) -> tuple[str, None]:
    wanted = int(one.runs[0].manifest["trainable_parameters"])
    model, _ = bench.workbench.base(_settings_base(bench, one)).load()
    rank = max(1, round(wanted / _lora_parameters(model)))
    peft = {"r": rank, "lora_alpha": 2 * rank, "target_modules": list(LORA_ON)}
    words = ("--model.head=IdentityHead", "--model.losses={}", f"--model.peft={json.dumps(peft)}")
    runs = [_fitted(bench, one, run, "lora", *words) for run in one.runs]
    result = _against_pretrained(runs, one)
    count = int(runs[0].manifest["trainable_parameters"])
    return (
        f"{count:,} parameters on attention, of {wanted:,}: {points(result.diff)} {interval(*result.told_ci95)}",
        None,
    )


def _identity(bench: Bench, one: Controlled) -> tuple[str, bool]:
    run = _fitted(bench, one, one.runs[0], "identity", "--optimizer.init_args.lr=0")
    after, before = run.questions[one.split], _base(run, one.split)
    same = all(np.array_equal(*pair) for pair in zip(after["log_probs"], before["log_probs"], strict=True))
    changed = int((_right(after) != _right(before)).sum())
    return f"log-probabilities {'equal bit for bit' if same else 'differ'}, {changed} answers changed", same


def _losses_alone(bench: Bench, one: Controlled) -> tuple[str, None]:
    losses = one.runs[0].manifest.get("losses") or {}
    words = ["--model.task_weight=0"]
    if not losses:
        words.append('--model.losses={"balance": {"class_path": "LoadBalanceLoss"}}')
    runs = [_fitted(bench, one, run, "losses", *words) for run in one.runs]
    result, names = _against_pretrained(runs, one), ", ".join(losses) or "load balance"
    return f"{names}: {points(result.diff)} {interval(*result.told_ci95)}", None


def _oracle(bench: Bench, one: Controlled) -> tuple[str, None]:
    base = _right(_base(one.runs[0], one.split))
    either = np.mean([(_right(run.questions[one.split]) | base).mean() for run in one.runs])
    best = max(base.mean(), np.mean([_right(run.questions[one.split]).mean() for run in one.runs]))
    return f"the better of two routers per question: {points(float(either - best))} above the better router", None


_Run = Callable[[Bench, Controlled], tuple[str, bool | None]]
_Made = tuple[str, str, str, _Run]
CONTROLS: dict[str, _Made] = {
    "C1": (
        "one offset per letter, fitted on the pretrained router's validation answers",
        "the gain is letter calibration",
        "the 95 % interval of what the router gains beyond it lies above 0",
        _letter_bias,
    ),
    "C2": (
        "choices moved on cyclically at test, all orders",
        "the gain hangs on positions or letters",
        "at least half of the gain survives, and answers lean to letters no more than before",
        _rotated,
    ),
    "C3": ("cloze at test", "the format was learned", "the sign agrees", _cloze),
    "C4": (
        "trained on labels dealt out anew",
        "leakage, or a fault of the measurement",
        "no gain: the 95 % interval does not lie above 0",
        _shuffled,
    ),
    "C5": (
        f"{DRAWS} random changes of the trained change's norm",
        "any change of this size helps",
        f"the trained change beats all of them (p = 1/{DRAWS + 1})",
        _random,
    ),
    "C6": ("a LoRA on attention of as many parameters", "nothing is special about routers", "", _lora),
    "C7": ("trained with learning rate 0", "plumbing", "equal bit for bit, no answer changed", _identity),
    "C8": ("auxiliary losses alone, no task loss", "the regulariser did it", "", _losses_alone),
    "C9": ("per question the better of both routers", "headroom; biased upward", "", _oracle),
}


def _again(bench: Bench, one: Controlled, run: Run, what: str, word: str) -> Run:
    checkpoint = _checkpoint(run) if run.manifest["trainable_parameters"] else None
    return load_run(bench.test(run.path, checkpoint, f"{one.experiment}-{one.arm}-{what}", word))


def _fitted(bench: Bench, one: Controlled, run: Run, what: str, *words: str) -> Run:
    name = f"{one.experiment}-{one.arm}-{what}"
    return load_run(bench.fit(ArmRun(one.arm, run.seed, [*one.argv[run.seed], *words], name, fresh=False)))


def _checkpoint(run: Run) -> Path:
    return run.path / "checkpoints" / str(tested_checkpoint(run.manifest))


def _against_pretrained(runs: Sequence[Run], one: Controlled) -> PairedResult:
    frames = [run.questions[one.split] for run in runs]
    return _paired(_right(_base(runs[0], one.split)), frames, one)


def _paired(before_Q: NDArray[np.bool_], after: Sequence[pd.DataFrame], one: Controlled) -> PairedResult:
    first, right_SQ = after[0], np.stack([_right(frame) for frame in after])
    seeds = [run.seed for run in one.runs]
    return compare_paired(before_Q[None], right_SQ, list(first["content_hash"]), list(first["subject"]), seeds)


def _gain(one: Controlled) -> float:
    return _against_pretrained(one.runs, one).diff


def _base(run: Run, split: str) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_parquet(questions_file(run.path, split, BASE))
    return frame.sort_values("id", ignore_index=True)


def _right(frame: pd.DataFrame) -> NDArray[np.bool_]:
    return (frame["prediction"] == frame["gold"]).to_numpy(dtype=bool)


def _spread(frame: pd.DataFrame) -> float:
    return letter_quality(list(frame["log_probs"]), frame["gold"].to_numpy()).recall_spread


def _source(run: Run) -> dict[str, Any]:
    return dict(run.config["data"]["source"])


def _wrapped(name: str, source: dict[str, Any], **arguments: int) -> dict[str, Any]:
    return {"class_path": name, "init_args": {"source": source, **arguments}}


def _settings_base(bench: Bench, one: Controlled) -> Any:
    return FitSettings(one.argv[one.runs[0].seed], bench.plugins).model.base


def _lora_parameters(model: PreTrainedModel) -> int:
    """Return how many parameters a LoRA of rank 1 has."""
    sizes = [
        one.in_features + one.out_features for name, one in model.named_modules() if name.rpartition(".")[2] in LORA_ON
    ]
    return max(1, int(sum(sizes)))
