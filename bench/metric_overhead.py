"""What share of an evaluation over whole prompts do all routing metrics take, under the scopes answer and all?

The mid-size OLMoE with a retuned router on its top layers, real MMLU questions. Every batch is answered and then added
to the metrics, each timed, so that both see the same machine; a turn is all batches, and the median turn counts. The
table times every metric by itself. Run it as ``python bench/metric_overhead.py``.

``--recorder`` asks what ``RoutingRecorder`` adds to a training step of the stock model instead: the top five routers
train on whole prompts, every batch once with and once without it, in turns; the recorder's own code is timed as well.
Both in processor seconds, which other programs on the machine hardly touch.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch

from bench.mid_size import (
    LEARNING_RATE,
    Place,
    machine_line,
    make_tuner,
    mmlu_questions,
    plain_trainer,
    save_model,
    write_quiz,
)
from bench.sides import peer_collator, peer_rows, stock_model
from bench.smoke import parsed
from moe_tune.data.batching import Batch
from moe_tune.heads.retuned import RetunedHead
from moe_tune.metrics.base import Outcome, RoutingMetric
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.recorder.gate_listener import HeardPass
from moe_tune.recorder.routing_recorder import RoutingRecorder
from moe_tune.tuner.router_tuner import RouterTuner

CUT = "cutting tokens out"
"""What the metrics of a scope share: the rows of its tokens, made once for all of them."""


def ready(place: Place) -> tuple[RouterTuner, list[Batch]]:
    """Return a tuner whose routers are moved at random, and the batches of the validation split."""
    tuner, quiz = make_tuner(place, RetunedHead(), "never"), place.quiz()
    plain_trainer(place).validate(tuner, quiz, verbose=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tuner.gated.trainable().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return tuner, list(quiz.val_dataloader())


def outcome_of(log_probs_BA: torch.Tensor, batch: Batch) -> Outcome:
    """Return how the questions of a batch went."""
    return Outcome(log_probs_BA.argmax(-1) == batch.gold_B, batch.subject_B, batch.question_B)


class Waiting:
    """Lets a pass record what the metrics read, and leaves them for later."""

    reads_mass = True

    def __init__(self, evidence: RoutingEvidence) -> None:
        self.needs = evidence.needs

    def add(self, *answered: object) -> None:
        """Do nothing yet."""


def by_metric(evidence: RoutingEvidence, tuner: RouterTuner, outcome: Outcome) -> dict[tuple[str, str], float]:
    """Return the seconds of each metric and scope for the tuner's last batch."""
    seconds: dict[tuple[str, str], float] = {}
    trace = tuner.gated.trace
    for scope in evidence.scopes:
        start = time.perf_counter()
        trace.at(scope)
        seconds[CUT, scope] = time.perf_counter() - start
        for metric in evidence.metrics.values():
            if isinstance(metric, RoutingMetric) and metric.scope == scope:
                start = time.perf_counter()
                metric.update(trace, outcome)
                seconds[type(metric).__name__, scope] = time.perf_counter() - start
        trace.forget()
    return seconds


class TimedRecorder(RoutingRecorder):
    """A recorder that knows how long its own code took."""

    seconds = 0.0

    def _count(self, heard: HeardPass) -> None:
        start = time.process_time()
        super()._count(heard)
        self.seconds += time.process_time() - start

    def step(self) -> dict[str, float]:
        """Return the values, and add the time they took."""
        start = time.process_time()
        values = super().step()
        self.seconds += time.process_time() - start
        return values


def recorder_overhead(options: argparse.Namespace) -> None:
    """Time training steps of the stock model with and without a recorder, in turns."""
    steps: dict[bool, list[float]] = {True: [], False: []}
    own = []
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.batch_size)
        save_model(place.model)
        chosen = mmlu_questions(options.questions, options.longest)
        write_quiz(place.folder / "quiz", train=chosen, validation=chosen[:2])
        quiz, model = place.quiz(), stock_model(place).train()
        rows, collate = peer_rows(quiz), peer_collator(quiz)
        batches = [collate(rows[at : at + options.batch_size]) for at in range(0, len(rows), options.batch_size)]
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=LEARNING_RATE)
        for turn in range(options.repeats + 1):
            for index, batch in enumerate(batches):
                for watched in (True, False) if (turn + index) % 2 else (False, True):
                    recorder = TimedRecorder(model, "training") if watched else None
                    if recorder is not None:
                        recorder.attach()
                    start = time.process_time()
                    model(**batch).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    if recorder is not None:
                        recorder.step()
                    if turn:  # the first turn warms up
                        steps[watched].append(time.process_time() - start)
                        own += [] if recorder is None else [recorder.seconds]
                    if recorder is not None:
                        recorder.detach()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) / len(batches)
    shares = sorted(one / other - 1 for one, other in zip(steps[True], steps[False], strict=True))
    plain = statistics.median(steps[False])
    print(f"{len(steps[True])} steps of {options.batch_size} MMLU questions, {tokens:.0f} real tokens on average")
    print(f"a step {plain:.3f} processor s, with the recorder {statistics.median(steps[True]):.3f}; shares of pairs")
    print(f"from {shares[0]:.4f} to {shares[-1]:.4f}; the recorder's own code {1e3 * statistics.median(own):.1f} ms")
    print(f"recorder_own_code {statistics.median(own) / plain:.4f}")
    print(f"recorder_overhead {statistics.median(shares):.4f}")


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=96, help="MMLU questions")
    parser.add_argument("--batch_size", type=int, default=32, help="questions per batch")
    parser.add_argument("--repeats", type=int, default=5, help="turns over all batches; the median counts")
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest prompt")
    parser.add_argument("--recorder", action="store_true", help="what RoutingRecorder adds to a training step")
    options = parsed(parser, questions=4, batch_size=2, repeats=1, longest=80)
    print(machine_line())
    if options.recorder:
        recorder_overhead(options)
        return
    passes, updates = [], []
    single = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        place = Place(Path(name), options.batch_size)
        save_model(place.model)
        chosen = mmlu_questions(options.questions, options.longest)
        write_quiz(place.folder / "quiz", validation=chosen, train=chosen[:2])
        tuner, batches = ready(place)
        for turn in range(options.repeats + 1):
            evidence = RoutingEvidence(tuner.examiner.metric_shape("validation"))
            passed = updated = 0.0
            for batch in batches:
                start = time.perf_counter()
                log_probs_BA = tuner.examiner.answer_batch(batch, "validation", Waiting(evidence)).log_probs_BA
                between = time.perf_counter()
                evidence.update(tuner.gated.trace, outcome_of(log_probs_BA, batch))
                passed, updated = passed + between - start, updated + time.perf_counter() - between
                if turn:  # the first turn warms up
                    for key, seconds in by_metric(evidence, tuner, outcome_of(log_probs_BA, batch)).items():
                        single[key].append(seconds)
            if turn:
                passes.append(passed)
                updates.append(updated)
    tokens = sum(int(batch.attention_mask_BS.sum()) for batch in batches)
    print(f"{len(chosen)} MMLU questions, {tokens / len(chosen):.0f} tokens on average, batch {place.batch_size}")
    print(f"{'milliseconds a batch':22} {'answer':>8} {'all':>8}")
    for metric in sorted({metric for metric, _ in single}):
        answer, every = (1e3 * statistics.median(single[metric, scope]) for scope in ("answer", "all"))
        print(f"{metric:22} {answer:8.2f} {every:8.2f}")
    shares = [updated / (passed + updated) for passed, updated in zip(passes, updates, strict=True)]
    passed, updated = statistics.median(passes), statistics.median(updates)
    print(f"passes {passed:.3f} s, metrics {updated:.3f} s; share {min(shares):.4f} to {max(shares):.4f}")
    print(f"overhead {statistics.median(shares):.4f}")


if __name__ == "__main__":
    main()
