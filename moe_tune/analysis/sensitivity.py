"""How much the routing and the answers of a model move when a prompt, or the arithmetic, changes a little."""

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor

from moe_tune.analysis.findings import SENSITIVITY
from moe_tune.analysis.perturbations import CHANGES, Change
from moe_tune.base.errors import ConfigError
from moe_tune.data.batching import Batch, PromptDataset
from moe_tune.data.encoding import PromptedQuestion, PromptEncoder
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.metrics.expert_accuracy import questions_by_expert
from moe_tune.models.other_dtype import in_other_dtype
from moe_tune.routing import RoutingTrace
from moe_tune.stats.accuracy_estimates import raw_accuracy
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.judged import Judged

FEWEST = 30
"""With fewer questions than this a mean gets no normal interval."""
LETTERS = -1
"""Stands in the column ``layer`` where a row is about the letters."""


def changed_experts(before_QE: NDArray[np.bool_], after_QE: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each question's chosen experts that changed.

    Formula: ``1 - |A & B| / max(|A|, |B|)``, of the sets A before and B after; 0 where both are empty.

    Shape:
        - one axis less than the arguments, in [0, 1].

    Reference:
        This project's; for sets of K experts ``1 - |A & B| / K``, as the overlap of Muennighoff et al. 2024,
        https://arxiv.org/abs/2409.02060.

    Example:
        >>> changed_experts(np.array([True, True, False, False]), np.array([True, False, True, False])).item()
        0.5
    """
    larger_Q = np.maximum(before_QE.sum(-1), after_QE.sum(-1))
    kept_Q = (before_QE & after_QE).sum(-1)
    share_Q: NDArray[np.float64] = (larger_Q - kept_Q) / np.maximum(larger_Q, 1)
    return share_Q


def measure_sensitivity(
    examiner: Examiner, split: str, questions: int, changes: Sequence[Change] = CHANGES
) -> pd.DataFrame:
    """Return how many chosen experts and letters change under each small change, from full prompts at the answer.

    A question counts for a change that alters its prompt's tokens; a change of the arithmetic counts for all. Prompts
    that a change makes longer than the context are left out and counted. Heads stay in place; nothing is trained,
    kept on disk, or left changed.

    Returns:
        One row per change and MoE layer (``changed_*``; the interval of the mean is normal, from 30 questions on, and
        ``any_changed_share`` is the share of questions with another set) and one per change with layer -1
        (``flipped_*``, with Wilson's interval). ``questions`` really changed; ``too_long`` were left out.

    Raises:
        ConfigError: The sample is empty.
    """
    if questions < 1:
        raise ConfigError(f"expected at least 1 question but got {questions} (sensitivity). Hint: 256 are usual.")
    examiner, quiz = examiner.on_full_prompts(), examiner.quiz
    prompts = quiz.encoded(split).prompts
    place_Q = np.unique(np.linspace(0, len(prompts) - 1, min(questions, len(prompts))).round().astype(int))
    # Of like length within a batch, and by number of examples, as those are encoded together.
    sample = sorted((prompts[place] for place in place_Q), key=lambda one: (-one.shots, -len(one.ids_S)))
    most = quiz.encoder(split).max_length
    rows: list[dict[str, Any]] = []
    before = _answers(examiner, split, sample, quiz.eval_batch_size)
    for change in changes:
        asked = sample if change.numeric else _asked(quiz, split, sample, change)
        pairs = zip(sample, asked, strict=True)
        new_Q = np.array([change.numeric or not torch.equal(one.ids_S, other.ids_S) for one, other in pairs])
        fits_Q = np.array([len(one.ids_S) <= most for one in asked])
        place_Q = np.flatnonzero(new_Q & fits_Q)
        model = examiner.gated.model
        with in_other_dtype(model, _own(examiner.gated)) if change.other_dtype else nullcontext():
            kept = [asked[place] for place in place_Q]
            after = _answers(examiner, split, kept, change.batch_size or quiz.eval_batch_size)
        count_Q = np.array([len(one.question.choices) for one in kept], dtype=np.intp)
        letter_Q = change.original_letters(after.letter_Q, count_Q)
        share_QL = changed_experts(before.chosen_QLE[place_Q], after.chosen_QLE)
        shared = {"change": change.name, "questions": len(kept), "too_long": int((~fits_Q).sum())}
        rows += [
            {**shared, "layer": layer, **_changed(share_QL[:, index])}
            for index, layer in enumerate(examiner.gated.gates)
        ]
        rows.append({**shared, "layer": LETTERS, **_flipped(before.letter_Q[place_Q] != letter_Q)})
    return pd.DataFrame(rows)[[*SENSITIVITY[2:], "too_long"]]  # those of letters and of layers are in rows of their own


def _asked(quiz: QuizDataModule, split: str, sample: list[PromptedQuestion], change: Change) -> list[PromptedQuestion]:
    """Return the changed prompts, with as many worked examples as they had."""
    usual = quiz.encoder(split)
    protocol = change.protocol(usual.protocol)
    asked: list[PromptedQuestion] = []
    for shots, group in groupby(sample, key=lambda one: one.shots):
        shown = {subject: change.examples(every[:shots]) for subject, every in usual.examples.items()}
        # No limit here: a prompt that lost an example to fit would be another change.
        encoder = PromptEncoder(usual.tokenizer, protocol, sys.maxsize, shots, shown)
        asked += encoder.encode([change.question(one.question) for one in group]).prompts
    return asked


def _answers(examiner: Examiner, split: str, prompts: list[PromptedQuestion], batch_size: int) -> "_Choices":
    """Answer prompts one batch after the other."""
    quiz = examiner.quiz
    dataset = PromptDataset(prompts, quiz.subjects, quiz.pad_id)
    places = (list(range(start, min(start + batch_size, len(prompts)))) for start in range(0, len(prompts), batch_size))
    shape = (len(prompts), len(examiner.gated.gates), examiner.gated.rule.num_experts)
    return examiner.evaluate(split, _Choices(shape), (dataset[place_B] for place_B in places))


class _Choices:
    """Keeps which experts and which letter, from 0, each of some prompts led to, in the order asked."""

    needs = frozenset[str]()
    reads_mass = False

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.chosen_QLE, self.letter_Q = np.zeros(shape, dtype=bool), np.zeros(shape[0], dtype=np.intp)
        self.asked = 0

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        place_B = slice(self.asked, self.asked + len(judged.loss_B))
        self.asked += len(judged.loss_B)
        self.letter_Q[place_B] = judged.log_probs_BA.argmax(-1).cpu().numpy()
        question_T = trace.question_T[trace.answer_T]
        for index, output in enumerate(trace.at("answer")):
            hit_BE = questions_by_expert(output, question_T, len(judged.loss_B))
            self.chosen_QLE[place_B, index] = hit_BE.cpu().numpy()


def _own(gated: GatedModel) -> list[Tensor]:
    """Return the heads' and adapters' parameters: they keep their dtype, as in a run of the other one."""
    return [*(value for head in gated.heads.values() for value in head.parameters()), *gated.trainable().values()]


def _changed(share_Q: NDArray[np.float64]) -> dict[str, float]:
    """Return the columns of a layer: the mean share with its interval, and the share of questions with any change."""
    low, high = _mean_interval(share_Q)
    share, any_changed = (float(one_Q.mean()) if len(one_Q) else math.nan for one_Q in (share_Q, share_Q > 0))
    return {"changed_share": share, "changed_low": low, "changed_high": high, "any_changed_share": any_changed}


def _flipped(flip_Q: NDArray[np.bool_]) -> dict[str, float]:
    """Return the columns of the letters: the share of questions answered otherwise, with Wilson's interval."""
    share, low, high = map(float, raw_accuracy(flip_Q.sum(), np.array(len(flip_Q))))
    return {"flipped_share": share, "flipped_low": low, "flipped_high": high}


def _mean_interval(share_Q: NDArray[np.float64]) -> tuple[float, float]:
    if len(share_Q) < FEWEST:
        return math.nan, math.nan
    if np.ptp(share_Q) == 0:
        # Questions that do not differ show no variance, and a normal interval would claim certainty.
        _, low, high = map(float, raw_accuracy(share_Q.sum(), np.array(len(share_Q))))
        return low, high
    low, high = DescrStatsW(share_Q).zconfint_mean()
    return max(float(low), 0.0), min(float(high), 1.0)
