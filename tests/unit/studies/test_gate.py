"""The gate of an experiment: what opens it, what keeps it closed, and that nothing is gained behind a closed one."""

import json

import pandas as pd
import pytest
from made_up_experiment import Executor, write
from made_up_runs import write_run

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.compare.agreement import letters_beside
from moe_tune.compare.outside import load_outside
from moe_tune.compare.runs import load_run
from moe_tune.data.question import number_questions
from moe_tune.studies.experiment import run_experiment
from moe_tune.studies.experiment_file import load_experiment

N = 200
GATED = {"seeds": [1], "full_arms": {}, "splits": {"test": "quiz layout"}, "also_against": ["retuned"]}
ARMS = {"untouched": [], "retuned": ["overlay.yaml"], "other": ["overlay.yaml", "model.head.tau=0.5"]}


def questions():
    """Return the questions of the made-up arms; the last is the first one's copy."""
    rows = [
        ("tools", f"How many bolts are in {i % (N - 1)} trays?", ("one", f"{i % (N - 1)}", "9.5", "none"), 1)
        for i in range(N)
    ]
    return number_questions(rows)


def letters(changed=0):
    return [(i % 4 + (i < changed)) % 4 for i in range(N)]


class Answering(Executor):
    """Arms that answer real questions: the baseline as said, the others all of them rightly."""

    def __call__(self, request):
        run = super().__call__(request)
        given = letters() if request.arm == "untouched" else [1] * N
        rows = [
            {"id": one.id, "content_hash": one.content_hash, "subject": one.subject, "gold": 1} for one in questions()
        ]
        table = pd.DataFrame(rows).assign(prediction=given)
        table["log_probs"] = [[-0.1 if letter == one else -3.0 for letter in range(4)] for one in given]
        table.sort_values("id", ignore_index=True).to_parquet(run / "questions" / "test.parquet")
        return run


def write_samples(folder, given, asked=None, subject=None):
    """Write answers as lm-eval's samples."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for place, (one, letter) in enumerate(zip(questions() if asked is None else asked, given, strict=False)):
        pairs = [[str(-0.1 if choice == letter else -3.0), "False"] for choice in range(4)]
        doc = {"question": one.stem, "choices": list(one.choices), "answer": one.answer}
        doc["subject"] = subject or one.subject
        row = {"doc_id": place, "doc": doc, "target": str(one.answer), "filtered_resps": pairs, "filter": "none"}
        row |= {"resps": [[pair] for pair in pairs], "metrics": ["acc"], "acc": float(letter == one.answer)}
        row["arguments"] = {f"gen_args_{i}": {"arg_0": one.stem, "arg_1": f" {'ABCD'[i]}"} for i in range(4)}
        lines.append(json.dumps(row) + "\n")
    (folder / "samples_trays_2026-01-02T03-04-05.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def gated(folder, tmp_path):
    """Give a function that runs the experiment behind a gate and returns what it said, its summary and its runs."""

    def run(gate):
        write(folder, **GATED, arms=ARMS, gate=gate)
        execute, said = Answering(tmp_path / f"runs-{len(list(tmp_path.iterdir()))}"), ""
        try:
            run_experiment(folder, execute)
        except DataError as fault:
            said = str(fault)
        return said, json.loads((folder / "results" / "summary.json").read_text()), execute

    return run


def gain_free(results):
    return all("retuned" not in file.read_text() for file in results.rglob("*") if file.is_file())


def test_equal_letters_open_the_gate(folder, gated):
    write_samples(folder / "samples", letters())
    said, summary, _ = gated({"samples": "samples"})
    assert said == ""
    assert set(summary["arms"]) == set(ARMS)
    assert summary["gate"] | {"reason": ""} == {
        "open": True, "reason": "", "needed": 0.999, "questions": N, "shared": N, "equal": N,
    }  # fmt: skip
    assert "Gate open" in (folder / "results" / "table.md").read_text()
    assert (folder / "results" / "against_retuned" / "report.html").is_file()


@pytest.mark.parametrize(("changed", "needed", "opened"), [(2, 0.99, True), (3, 0.99, False), (1, 0.999, False)])
def test_the_share_decides_to_the_question(folder, gated, changed, needed, opened):
    write_samples(folder / "samples" / "olmoe", letters(changed))  # a folder below, as lm-eval makes it
    said, summary, _ = gated({"samples": "samples", "agreement": needed})
    assert summary["gate"]["open"] is opened
    assert summary["gate"]["equal"] == N - changed
    differing = pd.read_csv(folder / "results" / "gate.csv")
    assert len(differing) == changed
    assert (differing["ours"] != differing["theirs"]).all()
    assert ("fewer than" in said) is not opened


def test_without_samples_all_arms_run_and_the_baseline_alone_is_told(folder, gated, capsys):
    said, summary, execute = gated({"samples": "samples"})
    assert [request.arm for request in execute.requests] == list(ARMS)
    assert "no samples of lm-eval" in said
    assert "Hint" in said
    assert list(summary["arms"]) == ["untouched"]
    assert gain_free(folder / "results")
    assert "Gate closed, no gain is reported: there are no samples" in (folder / "results" / "report.html").read_text()
    told = capsys.readouterr().out
    assert told.index("Gate closed") < told.index("arm 2/3")  # before hours are spent


def test_a_gate_that_closes_takes_back_what_it_let_through(folder, gated):
    samples = write_samples(folder / "samples", letters())
    assert not gated({"samples": "samples"})[0]
    write_samples(samples, letters(changed=50))
    assert gated({"samples": "samples"})[0]
    assert gain_free(folder / "results")


def test_other_questions_keep_it_closed(folder, gated):
    asked = questions()[: N - 10]
    write_samples(folder / "samples", letters(), asked)
    said, summary, _ = gated({"samples": "samples"})
    assert f"10 of {N} questions are not in the samples" in said
    assert list(summary["arms"]) == ["untouched"]


def test_samples_of_more_questions_and_of_no_subject_serve(tmp_path):
    run = load_run(Answering(tmp_path)(type("Request", (), {"arm": "untouched", "name": "a", "seed": 1})))
    extra = number_questions(
        [*((q.subject, q.stem, q.choices, q.answer) for q in questions()), ("a", "b?", ("c", "d", "e", "f"), 0)]
    )
    log = load_outside(write_samples(tmp_path / "samples", [*letters(), 0], extra, subject="all"))
    found = letters_beside(run, "test", log)
    assert (found.shared, found.equal) == (N, N)


def test_a_table_that_says_right_and_wrong_alone_keeps_it_closed(folder, gated):
    rows = [{"question": one.stem, "choices": list(one.choices), "correct": True} for one in questions()]
    pd.DataFrame(rows).to_json(folder / "answers.jsonl", orient="records", lines=True)
    assert "not which letter" in gated({"samples": "answers.jsonl"})[0]


def test_damaged_samples_are_told_before_an_arm_runs(folder):
    write_samples(folder / "samples", letters())
    next((folder / "samples").iterdir()).write_text("{")
    write(folder, **GATED, arms=ARMS, gate={"samples": "samples"})
    with pytest.raises(DataError):
        run_experiment(folder, lambda request: pytest.fail("ran"))


def test_two_models_below_one_folder_are_refused(folder):
    for name in ("one", "two"):
        write_samples(folder / "samples" / name, letters())
    write(folder, **GATED, arms=ARMS, gate={"samples": "samples"})
    with pytest.raises(DataError, match="one, two"):
        run_experiment(folder, lambda request: pytest.fail("ran"))


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (None, "where the samples are"),
        ({"sample": "x"}, "Did you mean samples"),
        ({"agreement": 0.9}, "gate.samples"),
        ({"samples": "x", "agreement": 99.9}, "above 0 and at most 1"),
        ({"samples": "x", "agreement": True}, "above 0 and at most 1"),
    ],
)
def test_faults_of_the_gate_are_named(folder, gate, message):
    write(folder, gate=gate)
    with pytest.raises(ConfigError, match=message):
        load_experiment(folder)


def test_a_gate_is_about_one_model(folder):
    write(folder, gate={"samples": "x"}, models={"half": "model.base.dtype=bfloat16"})
    with pytest.raises(ConfigError, match="those of one model"):
        load_experiment(folder)


def test_controls_stay_behind_the_gate(folder, tmp_path):
    write(folder, **GATED, arms=ARMS, gate={"samples": "samples"})
    with pytest.raises(DataError, match="open gate"):
        run_experiment(folder, Answering(tmp_path / "runs"), controls=lambda _: pytest.fail("controlled"))


def test_a_made_up_run_without_questions_of_the_split_is_named(folder, tmp_path):
    run = write_run(tmp_path / "runs" / "a", splits=("test_nano_textbook",))
    write(folder, **GATED, arms=ARMS, gate={"samples": "samples"})
    with pytest.raises(DataError, match="expected the split 'test'"):
        run_experiment(folder, lambda request: run)
