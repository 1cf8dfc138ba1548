"""The pass over the training split that calibrated heads are fitted to."""

from collections.abc import Iterable

import torch

from moe_tune.base.ranks import summed_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.heads.base import RouterHead
from moe_tune.metrics.base import Outcome
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.routing import LayerTable, RoutingTrace
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.judged import Judged
from moe_tune.tuner.train_table import HiddenSample, TrainTable, ids_hash

SPLIT = "train"


def calibrate(examiner: Examiner, heads: Iterable[tuple[int, RouterHead]] | None = None) -> TrainTable:
    """Fit heads to how the training questions go with the pretrained router, and return the table of it."""
    table = training_table(examiner)
    gated = examiner.gated
    for layer, head in gated.heads.items() if heads is None else heads:
        head.calibrate(table.layers[layer])
    gated.calibrated, gated.calibrated_on = True, gated.calibrated_on | table.content_hashes
    return table


def training_table(examiner: Examiner, *, with_heads: bool = False) -> TrainTable:
    """Return how often each expert was chosen at the answer position of the training questions, and how they went."""
    examiner.prepare([SPLIT])  # before the questions are counted: above the cache's limit they become a sample
    with examiner.gated.session([], base_only=not with_heads, everywhere=True):
        recorder = examiner.evaluate(SPLIT, _TableRecorder(examiner))
    questions = examiner.quiz.questions(SPLIT)
    hashes = frozenset(question.content_hash for question in questions)
    return TrainTable(SPLIT, len(questions), ids_hash(one.id for one in questions), recorder.tables(), hashes)


class _TableRecorder:
    needs = frozenset({"hidden", "base_logits"})
    reads_mass = False

    def __init__(self, examiner: Examiner) -> None:
        shape, device = examiner.metric_shape(SPLIT), examiner.gated.device  # on a trunk the lower layers do not run
        self.metric = ExpertAccuracy(shape, "answer").to(device)
        self.sample = HiddenSample(shape.num_questions)
        self.asked_S, self.right_S = (torch.zeros(shape.num_subjects, dtype=torch.long, device=device) for _ in "ab")

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        correct_B = judged.log_probs_BA.argmax(-1) == batch.gold_B
        self.metric.update(trace, Outcome(correct_B, batch.subject_B, batch.question_B))
        self.asked_S.index_add_(0, batch.subject_B, torch.ones_like(batch.subject_B))
        self.right_S.index_add_(0, batch.subject_B, correct_B.long())
        self.sample.add(batch.question_B, correct_B, [one.rows(trace.first_answers()) for one in trace.at("answer")])

    def tables(self) -> dict[int, LayerTable]:
        counts = self.metric.compute()
        asked_S, right_S = summed_over_ranks(self.asked_S), summed_over_ranks(self.right_S)
        chosen_LES, correct_LES = counts["questions_by_subject"], counts["correct_by_subject"]
        return {
            layer: LayerTable(chosen_LES[index], correct_LES[index], asked_S, right_S, *self.sample.of(layer))
            for index, layer in enumerate(self.metric.shape.layers)
        }
