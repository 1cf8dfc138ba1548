"""The pass over the training split that calibrated heads are fitted to."""

from typing import TYPE_CHECKING

import torch

from moe_tune.data.batching import Batch
from moe_tune.heads.train_table import LayerTable, TrainTable, ids_hash
from moe_tune.metrics.base import Outcome
from moe_tune.metrics.expert_accuracy import ExpertAccuracy

if TYPE_CHECKING:
    from moe_tune.module import RouterTuner


@torch.no_grad()
def training_table(tuner: "RouterTuner") -> TrainTable:
    """Return how often each expert was chosen at the answer position of the training questions, and how they went.

    The pretrained router decides everywhere while it is made.

    Args:
        tuner: A tuner whose model is loaded and whose trainer has a quiz.
    """
    tuner.keep_prompts(["train"])  # before the questions are counted: above the cache's limit they become a sample
    questions = tuner.quiz.questions("train")
    metric = ExpertAccuracy(tuner.metric_shape(), "answer").to(tuner.device)
    tuner.routers.session.bypassed = True
    try:
        for cpu_batch in tuner.quiz.calibration_dataloader():
            batch = Batch(*(value.to(tuner.device) for value in cpu_batch))
            log_probs_BA, _ = tuner.answer(batch, "train")
            metric.update(tuner.routers.trace, Outcome(log_probs_BA.argmax(-1) == batch.gold_B, batch.subject_B))
    finally:
        tuner.routers.session.bypassed = False
    tables = metric.compute()
    layers = {
        layer: LayerTable(tables["questions"][index], tables["correct"][index])
        for index, layer in enumerate(tuner.routers.gates)
    }
    return TrainTable("train", len(questions), ids_hash(question.id for question in questions), layers)
