"""A pass over a split outside Lightning's loops."""

from collections.abc import Iterable

import torch

from moe_tune.data.batching import Batch
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults


@torch.no_grad()
def split_results(tuner: RouterTuner, split: str, batches: Iterable[Batch]) -> SplitResults:
    """Return how a split goes with the routers as they stand; mode and results of the running stage stay as they are.

    No random number is drawn, so that a training goes on as if there had been no pass.

    Args:
        tuner: A tuner with a running trainer, its prompts kept and its heads calibrated.
        split: The split's name.
        batches: Its batches, one at least, on any device.
    """
    results, training = tuner.results, tuner.training
    tuner.results = {}
    tuner.eval()
    try:
        with tuner.trainer.precision_plugin.forward_context():
            for batch in batches:
                tuner.evaluate(Batch(*(value.to(tuner.device) for value in batch)), split)
        return tuner.results[split]
    finally:
        tuner.results = results
        tuner.train(training)
