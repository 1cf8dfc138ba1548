"""Logs of other programs in a comparison: the laws they keep, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from made_up_runs import write_run

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.cli.compare import default_out, main
from moe_tune.compare.outside import load_outside
from moe_tune.compare.report import compare_runs
from moe_tune.compare.words import openings_line, routing_line
from moe_tune.data.question import number_questions

N = 40
SUBJECTS = ("tools", "rivers", "trees")


def questions(word="bolts", n=N):
    return number_questions(
        (SUBJECTS[i % 3], f"A tray has {i} {word} and {i + 2} more. How many?", ("one", f"{2 * i + 2}", "none"), 1)
        for i in range(n)
    )


def scores(n=N, seed=0):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(3), n))


def sample(place, one, scores_A):
    pairs = [[str(float(score)), str(bool(score == max(scores_A)))] for score in scores_A]
    return {
        "doc_id": place,
        "doc": {"question": one.stem, "subject": one.subject, "choices": list(one.choices), "answer": one.answer},
        "target": str(one.answer),
        "arguments": {f"gen_args_{i}": {"arg_0": one.stem, "arg_1": f" {'ABC'[i]}"} for i in range(3)},
        "resps": [[pair] for pair in pairs],
        "filtered_resps": pairs,
        "filter": "none",
        "metrics": ["acc"],
        "acc": float(np.argmax(scores_A) == one.answer),
    }


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_samples(file, asked=None, scores_QA=None, **changes):
    asked = questions() if asked is None else asked
    scores_QA = scores(len(asked)) if scores_QA is None else scores_QA
    rows = [sample(i, *pair) | changes for i, pair in enumerate(zip(asked, scores_QA, strict=True))]
    return write_lines(file, rows)


def write_answers(run, asked, scores_QA, split="test"):
    """Put answers to real questions into a made-up run."""
    frame = pd.DataFrame([{"id": one.id, "content_hash": one.content_hash, "subject": one.subject} for one in asked])
    given = {"gold": [one.answer for one in asked], "prediction": scores_QA.argmax(-1)}
    frame.assign(**given, log_probs=list(scores_QA)).to_parquet(run / "questions" / f"{split}.parquet")
    return run


def table_rows(scores_QA, **more):
    return [
        {"question": one.stem, "choices": list(one.choices), "answer": "ABC"[one.answer], "log_probs": row.tolist()}
        | more
        for one, row in zip(questions(), scores_QA, strict=True)
    ]


def figures(comparison):
    result = comparison.challengers[0].results[comparison.primary]
    return result.accuracy, result.diff, result.n01, result.n10, result.p, result.clusters


@pytest.fixture
def run(tmp_path):
    return write_answers(write_run(tmp_path / "own-s1", name="own", splits=("test",)), questions(), scores())


def test_a_runs_own_answers_as_samples_are_the_run(tmp_path, run):
    log = write_samples(
        tmp_path / "model" / "samples_trays_2026-01-02T03-04-05.jsonl", questions()[::-1], scores()[::-1]
    )
    comparison = compare_runs(run, [log], tmp_path / "out")
    assert list(comparison.arms) == ["own", "model"]
    arm = comparison.arms["model"]
    assert arm.results["test"].diff == arm.results["test"].discordance == 0
    assert arm.flips["test"].empty
    assert arm.letters["test"].ece == comparison.arms["own"].letters["test"].ece
    assert arm.routing["test"] is None
    assert "never activated" in (tmp_path / "out" / "report.html").read_text().lower()  # the run's own routing stays
    assert any("Nothing shows that these logs asked" in note for note in comparison.notes)
    assert arm.runs == ("model/samples_trays_2026-01-02T03-04-05.jsonl",)


def test_a_log_answers_the_split_that_it_agrees_with(tmp_path):
    run = write_run(tmp_path / "own-s1", name="own", splits=("test", "test_law"))
    log = write_samples(tmp_path / "model" / "samples_trays.jsonl")
    write_answers(run, questions(), scores(), "test_law")
    assert list(compare_runs(run, [log], tmp_path / "out").splits) == ["test_law"]


def test_two_logs_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    logs = [
        str(write_samples(tmp_path / one / "samples_trays.jsonl", None, scores(seed=i))) for i, one in enumerate("ab")
    ]
    assert main(logs, {}) == 0
    told = capsys.readouterr().out
    assert "lm-eval:trays" in told
    assert "Openings unknown: a/samples_trays.jsonl, b/samples_trays.jsonl." in " ".join(told.split())
    assert "routing" not in told.lower()
    (out,) = (tmp_path / "compare").iterdir()
    assert out.name.startswith("samples_trays-")
    summary = json.loads((out / "summary.json").read_text())
    right = [float((scores(seed=i).argmax(-1) == 1).mean()) for i in range(2)]
    assert [summary["arms"][one]["accuracy"] for one in "ab"] == right
    assert summary["arms"]["b"]["diff"] == pytest.approx(right[1] - right[0])
    assert summary["arms"]["b"]["ece"] is not None
    assert len(pd.read_csv(out / "flips.csv")) == summary["arms"]["b"]["n01"] + summary["arms"]["b"]["n10"]
    page = (out / "report.html").read_text()
    assert "Entropy over" not in page
    assert "Openings unknown" in page


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("tsv", "json")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", *SLOW])
def test_the_order_and_the_format_of_a_table_do_not_matter(tmp_path, kind):
    first, second = (table_rows(scores(seed=seed)) for seed in range(2))
    write_lines(tmp_path / "one.jsonl", first)
    write_lines(tmp_path / "two.jsonl", second)
    file = tmp_path / f"swapped.{kind}"
    frame = pd.DataFrame(second[::-1])
    if kind == "parquet":
        frame.to_parquet(file)
    elif kind in ("csv", "tsv"):
        frame.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    else:
        file.write_text(frame.to_json(orient="records", lines=kind == "jsonl", double_precision=15))
    plain = compare_runs(tmp_path / "one.jsonl", [tmp_path / "two.jsonl"], tmp_path / "a")
    swapped = compare_runs(tmp_path / "one.jsonl", [file], tmp_path / "b")
    assert figures(plain) == figures(swapped)
    assert plain.challengers[0].letters["test"].ece == pytest.approx(swapped.challengers[0].letters["test"].ece)


def test_one_column_for_each_choice(tmp_path):
    one = write_lines(tmp_path / "one.jsonl", table_rows(scores()))
    rows = [
        {"question": row["question"], **dict(zip("ABC", row["choices"], strict=True)), "answer": row["answer"]}
        | {f"log_prob_{letter}": value for letter, value in zip("ABC", row["log_probs"], strict=True)}
        for row in table_rows(scores())
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "two.csv", index=False)
    assert figures(compare_runs(one, [tmp_path / "two.csv"], tmp_path / "out"))[1:4] == (0, 0, 0)


@pytest.mark.parametrize("choices", [True, False])
def test_right_and_wrong_alone(tmp_path, run, choices):
    right = scores(seed=1).argmax(-1) == 1
    rows = [
        {"question": one.stem, "correct": int(good)} | ({"choices": list(one.choices)} if choices else {})
        for one, good in zip(questions(), right, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "told.csv", index=False)
    log = write_samples(tmp_path / "model" / "samples_trays.jsonl")
    comparison = compare_runs(log, [tmp_path / "told.csv"], tmp_path / "out")
    arm = comparison.arms["told"]
    assert arm.results["test"].accuracy == pytest.approx(right.mean())
    assert arm.letters["test"] is None
    assert comparison.arms["model"].letters["test"] is not None
    assert set(arm.flips["test"].query("change == 'lost'")["after"]) == {-1}
    assert any("Which wrong answer was given is not told by" in note for note in comparison.notes)
    alone = compare_runs(tmp_path / "told.csv", [write_lines(tmp_path / "same.jsonl", rows)], tmp_path / "alone")
    assert figures(alone)[1:4] == (0, 0, 0)
    assert not any("answers of" in note for note in alone.notes)  # right and wrong are no letters
    if choices:
        beside = compare_runs(run, [tmp_path / "told.csv"], tmp_path / "beside")
        assert beside.arms["told"].results["test"].accuracy == pytest.approx(right.mean())
    else:
        with pytest.raises(DataError, match="add choices"):
            compare_runs(run, [tmp_path / "told.csv"], tmp_path / "beside")


def test_another_task_is_refused_in_one_line(tmp_path, run):
    log = write_samples(tmp_path / "b" / "samples_trays.jsonl")
    other = write_samples(tmp_path / "b" / "samples_nuts.jsonl", questions("nuts"))
    for baseline in (log, run):
        with pytest.raises(
            DataError, match="expected the same 40 questions but got 80 that differ: 40 only in "
        ) as fault:
            compare_runs(baseline, [other], tmp_path / "out")
        assert "\n" not in str(fault.value)
        assert "bolts" in str(fault.value) or baseline is run
    with pytest.raises(DataError, match=r"samples of one task but got those of \['nuts', 'trays'\]"):
        load_outside(tmp_path / "b")
    shorter = write_samples(tmp_path / "c" / "samples_trays.jsonl", questions(n=30))
    with pytest.raises(DataError, match=r"got 10 that differ: 10 only in b/samples_trays.jsonl"):
        compare_runs(log, [shorter], tmp_path / "out")


def test_other_right_answers_are_refused(tmp_path):
    one = write_lines(tmp_path / "one.jsonl", table_rows(scores()))
    two = write_lines(tmp_path / "two.jsonl", [row | {"answer": "C"} for row in table_rows(scores())])
    with pytest.raises(DataError, match="equal content, subject and right answer but got 40"):
        compare_runs(one, [two], tmp_path / "out")


def test_copies_of_a_question_are_one_cluster_whatever_their_order(tmp_path):
    copied = table_rows(scores(), correct=None)
    for row, value in zip(copied, scores(), strict=True):
        row["correct"] = bool(value.argmax() == 1)
    doubled = copied + copied[:10]
    one = write_lines(tmp_path / "one.jsonl", doubled)
    same = write_lines(tmp_path / "same.jsonl", doubled[::-1])
    comparison = compare_runs(one, [same], tmp_path / "out")
    assert figures(comparison)[1:4] == (0, 0, 0)
    assert (comparison.challengers[0].results["test"].n, comparison.challengers[0].results["test"].clusters) == (50, 40)
    with pytest.raises(DataError, match="got 10 that differ"):
        compare_runs(one, [write_lines(tmp_path / "fewer.jsonl", copied)], tmp_path / "out")


def test_a_document_twice_is_refused_and_of_several_filters_the_first_counts(tmp_path):
    file = write_samples(tmp_path / "samples_trays.jsonl")
    text = file.read_text()
    file.write_text(text + text.splitlines()[3] + "\n")
    with pytest.raises(DataError, match=r"each document once but got 1 several times \(doc_id 3;"):
        load_outside(file)
    file.write_text(text + text.replace('"filter": "none"', '"filter": "strict"'))
    assert len(load_outside(file).questions["test"]) == N


def test_what_contradicts_itself_is_refused(tmp_path):
    file = write_samples(tmp_path / "samples_trays.jsonl", acc=1.0)
    wrong = int((scores().argmax(-1) != 1).sum())
    with pytest.raises(
        DataError, match=f"acc to say whether the most probable choice is the target but got {wrong} of 40"
    ):
        load_outside(file)
    table = write_lines(tmp_path / "table.jsonl", table_rows(scores(), correct=1))
    with pytest.raises(
        DataError, match=f"correct to say whether the most probable choice is the right one but got {wrong}"
    ):
        load_outside(table)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a", "colour": "red"}], "expected a column of correctness or log-probabilities"),
        ([{"text": "a", "correct": 1}], "expected a column of questions"),
        (
            [{"question": "a", "correct": 0.5}],
            r"expected 1 or 0, or true or false in the column 'correct' but got '0.5'",
        ),
        ([{"question": "a", "log_probs": [-1, -2]}], "expected a right answer for every question"),
        ([{"question": "a", "log_probs": ["x"], "answer": "A"}], "expected a number for each choice"),
        ([{"question": " ", "correct": 1}], "expected a question but got ' '"),
        ([{"question": "a", "choices": ["x", "y"], "answer": 2, "correct": 1}], "answer is 2, not 0 to 1"),
        ([{"question": "a", "choices": ["1", "2"], "answer": "1", "correct": 1}] * 2, "Hint: write answers as letters"),
        ([], "got no rows"),
    ],
)
def test_a_table_that_lacks_something_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load_outside(write_lines(tmp_path / "table.jsonl", rows))


def test_choices_in_another_order_than_the_harness_asked_leave_right_and_wrong(tmp_path):
    rows = [sample(i, *pair) for i, pair in enumerate(zip(questions(), scores(), strict=True))]
    for row in rows:  # the task's own order of choices: the right one last
        order = [0, 2, 1]
        row |= {"target": "2", "filtered_resps": [row["filtered_resps"][i] for i in order]}
    run = load_outside(write_lines(tmp_path / "samples_trays.jsonl", rows))
    frame = run.questions["test"]
    assert "log_probs" not in frame
    assert (frame["gold"] == frame["prediction"]).mean() == (scores().argmax(-1) == 1).mean()


def test_documents_of_no_known_layout_are_told_by_their_whole(tmp_path):
    docs = [{"problem": f"{i} + {i}", "solution": str(2 * i)} for i in range(N)]
    for place, name in enumerate("ab"):
        rows = [
            sample(i, questions()[i], scores()[i])
            | {"doc": docs[i], "filtered_resps": ["5"], "target": "5", "metrics": ["exact_match"]}
            | {"exact_match": float((i + place) % 4 == 0)}
            for i in range(N)
        ]
        for row in rows:
            del row["acc"]
        write_lines(tmp_path / name / "samples_sums.jsonl", rows)
    comparison = compare_runs(tmp_path / "a", [tmp_path / "b"], tmp_path / "out")
    assert comparison.splits == {"test": "test (lm-eval:sums, exact_match)"}
    assert figures(comparison)[1:4] == (0, 10, 10)


def test_a_group_is_one_test_and_the_results_beside_it_tell_model_and_examples(tmp_path):
    date = "2026-01-02T03-04-05.678"
    for name, shots in (("a", 0), ("b", 5)):
        for subject in SUBJECTS:
            part = [one for one in questions() if one.subject == subject]
            write_samples(tmp_path / name / f"samples_kit_{subject}_{date}.jsonl", part)
        tasks = [f"kit_{subject}" for subject in SUBJECTS]
        told = {"model_name": f"org/{name}-7B", "n-shot": dict.fromkeys(tasks, shots), "group_subtasks": {"kit": tasks}}
        (tmp_path / name / f"results_{date}.json").write_text(json.dumps(told))
    run = load_outside(tmp_path / "a")
    assert (run.name, run.manifest["base"], run.manifest["protocols"]) == (
        "a-7B", {"path": "org/a-7B"}, {"test": "lm-eval:kit"},
    )  # fmt: skip
    assert set(run.questions["test"]["id"]) == {one.id for one in questions()}
    with pytest.raises(DataError, match=r"same number of worked examples but got 0 in .* and 5 in"):
        compare_runs(tmp_path / "a", [tmp_path / "b"], tmp_path / "out")


def test_prompts_that_differ_are_told(tmp_path):
    one = write_samples(tmp_path / "a" / "samples_trays.jsonl")
    two = write_samples(
        tmp_path / "b" / "samples_trays.jsonl", arguments={"gen_args_0": {"arg_0": "Hi!", "arg_1": " A"}}
    )
    comparison = compare_runs(one, [two], tmp_path / "out")
    assert any(
        note.startswith("40 of 40 prompts of b/samples_trays.jsonl are not those of a/") for note in comparison.notes
    )


def test_logs_of_one_name_are_arms_of_their_own(tmp_path):
    older, newer = (write_samples(tmp_path / "m" / f"samples_trays_2026-0{i}-02T03-04-05.jsonl") for i in (1, 2))
    comparison = compare_runs(older, [newer], tmp_path / "out")
    assert list(comparison.arms) == [f"m/{older.name}", f"m/{newer.name}"]
    assert routing_line(comparison) == ""
    assert "Openings unknown" in openings_line(comparison, "test")


def test_what_is_no_arm_is_told(tmp_path, capsys):
    file = write_samples(tmp_path / "m" / "samples_trays.jsonl")
    with pytest.raises(ConfigError, match="one log alone"):
        main([str(file)], {})
    with pytest.raises(DataError, match=r"there is no file .*Did you mean samples_trays.jsonl"):
        main([str(file), str(file.with_name("samples_tray.jsonl"))], {})
    with pytest.raises(DataError, match=r"give what lies in it: .*/m"):
        main([str(tmp_path), str(file)], {})
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"got a .txt file"):
        main([str(file), str(tmp_path / "notes.txt")], {})


def test_the_folder_of_a_comparison_lies_beside_runs_and_never_beside_logs(tmp_path, run):
    one, two = (write_samples(tmp_path / name / "samples_trays.jsonl") for name in "ab")
    assert default_out(one, [two]).parent.as_posix() == "compare"
    assert default_out(one, [two]) != default_out(two, [one])
    assert default_out(run, [one]).parent == default_out(one, [run]).parent == run.resolve().parent / "compare"
