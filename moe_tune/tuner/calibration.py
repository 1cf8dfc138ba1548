"""The pass over the training split that calibrated heads are fitted to."""

import contextlib
from typing import TYPE_CHECKING

import torch

from moe_tune.base.ranks import summed_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.metrics.base import Outcome
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.routing import LayerTable
from moe_tune.tuner.train_table import HiddenSample, TrainTable, ids_hash

if TYPE_CHECKING:
    from moe_tune.tuner.router_tuner import RouterTuner


@torch.no_grad()
def training_table(tuner: "RouterTuner", *, with_heads: bool = False) -> TrainTable:
    """Return how often each expert was chosen at the answer position of the training questions, and how they went.

    Args:
        tuner: A tuner whose model is loaded and whose trainer has a quiz.
        with_heads: Let the heads decide while it is made; otherwise the pretrained router does, everywhere.
    """
    split = "train"
    tuner.keep_prompts([split])  # before the questions are counted: above the cache's limit they become a sample
    questions, routers = tuner.quiz.questions(split), tuner.routers
    shape = tuner.metric_shape(split)  # on a trunk the lower layers do not run
    metric = ExpertAccuracy(shape, "answer").to(tuner.device)
    sample = HiddenSample(len(questions))
    asked_S, right_S = (torch.zeros(shape.num_subjects, dtype=torch.long, device=tuner.device) for _ in range(2))
    needs, training = routers.session.needs, tuner.training
    routers.session.needs = needs | {"hidden", "base_logits"}
    tuner.eval()
    try:
        decided = contextlib.nullcontext() if with_heads else routers.base_only()
        with decided, tuner.trainer.precision_plugin.forward_context():
            for cpu_batch in tuner.quiz.loader(split):
                batch = Batch(*(value.to(tuner.device) for value in cpu_batch))
                log_probs_BA, _ = tuner.answer(batch, split)
                correct_B = log_probs_BA.argmax(-1) == batch.gold_B
                metric.update(routers.trace, Outcome(correct_B, batch.subject_B, batch.question_B))
                asked_S.index_add_(0, batch.subject_B, torch.ones_like(batch.subject_B))
                right_S.index_add_(0, batch.subject_B, correct_B.long())
                # At the answer scope a trace has one token per question, in the order of the batch.
                sample.add(batch.question_B, list(routers.trace.at("answer")))
    finally:
        routers.session.needs = needs
        tuner.train(training)
    tables = metric.compute()
    asked_S, right_S = summed_over_ranks(asked_S), summed_over_ranks(right_S)
    layers = {
        layer: LayerTable(
            tables["questions_by_subject"][index],
            tables["correct_by_subject"][index],
            asked_S,
            right_S,
            *sample.of(layer),
        )
        for index, layer in enumerate(shape.layers)
    }
    hashes = frozenset(question.content_hash for question in questions)
    return TrainTable(split, len(questions), ids_hash(question.id for question in questions), layers, hashes)
