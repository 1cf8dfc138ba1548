"""Two processes with gloo give what one gives: counts exactly, averages to 1e-6."""

from datetime import timedelta

import torch
import torch.distributed

import moe_tune.metrics  # noqa: F401 (finds the metrics)
from moe_tune.metrics.base import MetricShape, Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.routing import PARTS, RoutingTrace

LENGTHS = (4, 1, 3, 5, 2, 1, 4)
SHAPE = MetricShape(layers=(0, 1, 2), num_experts=8, top_k=2, num_subjects=3, num_questions=9)
OUTCOME = Outcome(
    torch.tensor([True, False, True, True, False, True, False]),
    torch.tensor([0, 2, 2, 1, 0, 2, 1]),
    torch.tensor([8, 0, 3, 2, 5, 1, 7]),
)
SCOPES = ("answer", "all", "stem", "choices")
SPLIT = (((6, 0), (3, 2, 5)), ((4, 1),))
"""The batches of each process: five questions in two, and two in one."""


def batch(trace, questions):
    """Return the batch of some of a trace's questions, without gradients."""
    keep_T = torch.cat([(trace.question_T == question).nonzero().flatten() for question in questions])
    number_T = torch.tensor([list(questions).index(int(question)) for question in trace.question_T[keep_T]])
    piece = RoutingTrace(trace.real_T[keep_T], trace.answer_T[keep_T], number_T, part_T=trace.part_T[keep_T])
    for output in trace.outputs.values():
        output.logits_TE, output.probs_TE, output.weights_TK = (
            one.detach() for one in (output.logits_TE, output.probs_TE, output.weights_TK)
        )
        piece.record(output.rows(keep_T))
    which = list(questions)
    return piece, Outcome(OUTCOME.correct_B[which], OUTCOME.subject_B[which], OUTCOME.question_B[which])


def results(batches):
    """Return every table of every scope."""
    evidence = RoutingEvidence(SHAPE, SCOPES)
    for trace, outcome in batches:
        evidence.update(trace, outcome)
    return {scope: evidence.tables(scope) for scope in SCOPES}


def process(rank, folder):
    """Read this process's batches, and write what the metrics give once they are synced."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    batches = torch.load(folder / f"batches_{rank}.pt", weights_only=False)
    torch.save(results(batches), folder / f"results_{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path, random_trace):
    trace = random_trace(LENGTHS, 5, spare=True)
    place_T = torch.arange(len(trace.real_T)) % 2
    parts_T = torch.where(place_T == 0, PARTS.index("stem"), PARTS.index("choices"))
    trace.part_T = torch.where(trace.real_T, parts_T, -1)
    for rank, batches in enumerate(SPLIT):
        torch.save([batch(trace, questions) for questions in batches], tmp_path / f"batches_{rank}.pt")
    torch.multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    wanted = results([batch(trace, range(len(LENGTHS)))])
    for rank in range(2):
        came = torch.load(tmp_path / f"results_{rank}.pt")
        assert came.keys() == wanted.keys()
        for scope, tables in wanted.items():
            assert came[scope].keys() == tables.keys()
            for name, table in tables.items():
                assert came[scope][name].dtype == table.dtype, (scope, name)
                if table.is_floating_point():
                    torch.testing.assert_close(came[scope][name], table, atol=1e-6, rtol=0, msg=f"{scope} {name}")
                else:
                    assert torch.equal(came[scope][name], table), (scope, name)
                assert table.any() or name in ("tie_rate", "near_tie_rate"), "a table of zeros would prove nothing"
