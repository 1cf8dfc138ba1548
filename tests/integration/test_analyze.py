"""The verb ``analyze`` on the nano model: it agrees with the run, its parts add up, and it flags what was planted."""

import sys

import numpy as np
import pandas as pd
import pytest
from tiny_runs import TINY, openings

from moe_tune.analysis.gather import Manner, gather, pass_part
from moe_tune.analysis.passes import AnalysedModel, run_pass
from moe_tune.analysis.sensitivity import measure_sensitivity
from moe_tune.cli.main import main
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.source import QuestionSource, RawRow
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.stats.permutation_null import permutation_null

SUMS = ("count", "weight_mass")


@pytest.fixture(scope="module")
def analysed(finished, tmp_path_factory):
    """Return the run and the folder of its analysis, with two worked examples and with none."""
    out = tmp_path_factory.mktemp("analysis")
    words = [str(finished), "--out", str(out), "--shots", "0", "2", "--sensitivity", "32", "--draws", "199"]
    assert main(["analyze", *words]) == 0
    return finished, out


def test_it_agrees_with_what_the_run_recorded(analysed):
    """The run went the answer path where the analysis read full prompts."""
    run, out = analysed
    experts = pd.read_parquet(out / "experts.parquet")
    ours = experts[(experts["shots"] == 0) & (experts["scope"] == "answer")].set_index(["layer", "expert"])
    recorded = pd.read_parquet(run / "routing" / "test.parquet")
    theirs = recorded[recorded["scope"] == "answer"].set_index(["layer", "expert"])
    for name in ("count", "questions", "correct"):
        assert ours[name].equals(theirs[name].astype(ours[name].dtype)), name
    np.testing.assert_allclose(ours["weight_mass"], theirs["weight_mass"], rtol=1e-5)
    questions = pd.read_parquet(out / "questions.parquet")
    answers = pd.read_parquet(run / "questions" / "test.parquet").set_index("id")["prediction"]
    assert questions[questions["shots"] == 0].set_index("id")["prediction"].equals(answers)


@pytest.mark.parametrize("shots", [0, 2])
def test_the_parts_of_a_prompt_add_up_to_all_of_it(analysed, shots):
    experts = pd.read_parquet(analysed[1] / "experts.parquet")
    experts = experts[experts["shots"] == shots]
    parts = experts[~experts["scope"].isin(["answer", "all"])]
    assert set(parts["scope"]) == {"instruction", "stem", "choices"} | ({"examples"} if shots else set())
    whole = experts[experts["scope"] == "all"].set_index(["layer", "expert"])[list(SUMS)]
    summed = parts.groupby(["layer", "expert"])[list(SUMS)].sum()
    np.testing.assert_array_equal(summed["count"], whole["count"])
    np.testing.assert_allclose(summed["weight_mass"], whole["weight_mass"], rtol=1e-6)


def test_every_table_is_there_and_readings_of_the_test_split_are_recorded(analysed):
    run, out = analysed
    for name in ("experts", "layers", "weights", "subjects", "co_activation", "sensitivity"):
        assert pd.read_csv(out / f"{name}.csv").shape == pd.read_parquet(out / f"{name}.parquet").shape
    assert {"report.html", "report.md", "summary.json"} <= {path.name for path in out.iterdir()}
    told = [(one["split"], one["few_shot"]) for one in openings(run) if one["verb"] == "analyze"]
    assert told == [("test", 0), ("test", 2)]
    assert set(pd.read_parquet(out / "experts.parquet")["evidence"]) == {"associational"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["no/such/run"], 3, "run directory"),
        (["--config", "configs/nano.yaml", "--split", "tset"], 2, "test"),
        (["--config", "configs/nano.yaml", "--draws", "5"], 2, "100 draws"),
        (["--config", "configs/nano.yaml", "--shots", "99"], 2, "examples"),
        (["--config", "configs/nano.yaml", "--split", "dev"], 2, "its answer"),
        (["--config", "configs/nano.yaml", "--scopes", "examples", "--shots", "0"], 2, "--shots 5"),
        (["--config", "configs/nano.yaml", "--data.few_shot", "3"], 2, "--shots"),
        (["--split", "validation"], 2, "--config FILE"),
        ([], 2, "--config FILE"),
    ],
)
def test_mistakes_end_with_one_message(tmp_path, capsys, words, code, said):
    assert main(["analyze", *words, "--out", str(tmp_path / "out")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


SMALL = ["--config", "configs/nano.yaml", "--data.limit_test", "48", "--draws", "100"]


def analyse(out, *words):
    """Return the experts' counts and every prediction of an analysis."""
    assert main(["analyze", *words, "--out", str(out), "--runs_root", str(out.parent)]) == 0
    experts = pd.read_parquet(out / "experts.parquet")
    return experts, pd.read_parquet(out / "questions.parquet")


@pytest.mark.slow
def test_a_pass_does_not_hang_on_the_pass_before_it(tmp_path):
    """Neither on its kept prompts nor on what its heads were calibrated on."""
    words = [*SMALL, "--config", "configs/head/accuracy_bias.yaml", "--data.limit_train", "200"]
    words += ["--scopes", "answer", "--sensitivity", "0"]
    alone = analyse(tmp_path / "alone", *words, "--shots", "5")
    both = analyse(tmp_path / "both", *words, "--shots", "0", "5", "5")
    for one, other in zip(alone, both, strict=True):
        later = other[other["shots"] == 5].reset_index(drop=True)
        pd.testing.assert_frame_equal(later, one, check_exact=False, rtol=1e-6)


INTERRUPTED = [*SMALL, "--scopes", "answer", "all", "--shots", "0", "2", "--sensitivity", "16"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what an undisturbed analysis gives, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return analyse(out, *INTERRUPTED), out


@pytest.mark.parametrize("stops_at", ["second pass", pytest.param("sensitivity", marks=pytest.mark.slow)])
def test_an_interrupted_analysis_goes_on_from_the_passes_it_kept(tmp_path, monkeypatch, whole, stops_at):
    words, runs = INTERRUPTED, []

    def run(model, quiz, *others):
        runs.append(quiz.few_shot)
        if stops_at == "second pass" and runs == [0, 2]:
            raise KeyboardInterrupt
        return run_pass(model, quiz, *others)

    def measure(*asked):
        if stops_at == "sensitivity" and runs == [0, 2]:
            raise KeyboardInterrupt
        return measure_sensitivity(*asked)

    monkeypatch.setattr("moe_tune.analysis.analyse.run_pass", run)
    monkeypatch.setattr("moe_tune.analysis.analyse.measure_sensitivity", measure)
    out = tmp_path / "broken" / "out"
    assert interrupted(lambda: analyse(out, *words))
    kept = sorted(path.name for path in (out / "passes").iterdir())
    assert kept == ["0-shot"] if stops_at == "second pass" else ["0-shot", "2-shot"]
    assert {"layers.parquet", "questions.parquet"} <= {path.name for path in (out / "passes" / "0-shot").iterdir()}
    runs.clear()
    runs.append("again")
    for one, other in zip(whole[0], analyse(out, *words), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert runs == (["again", 2] if stops_at == "second pass" else ["again"])
    assert not (out / "passes").exists()
    for name in ("layers", "sensitivity", "co_activation"):
        assert (out / f"{name}.csv").read_bytes() == (whole[1] / f"{name}.csv").read_bytes()


def interrupted(work):
    try:
        work()
    except (KeyboardInterrupt, AssertionError):  # the program ends with its exit code of an interruption
        return True
    return False


def test_without_enough_examples_there_is_a_note_and_the_pass_without(tmp_path):
    words = [*SMALL, "--data.source.dev", "16", "--scopes", "answer", "all", "--sensitivity", "8"]
    _, questions = analyse(tmp_path / "out", *words)
    assert set(questions["shots"]) == {0}
    assert "No pass with 5 worked examples" in (tmp_path / "out" / "report.md").read_text()
    assert set(pd.read_csv(tmp_path / "out" / "sensitivity.csv")["shots"]) == {0}


def test_several_devices_make_one_pass(tmp_path):
    words = [*SMALL, "--trainer.devices", "2", "--trainer.accelerator", "cpu", "--shots", "0", "--sensitivity", "0"]
    assert len(analyse(tmp_path / "out", *words)[1]) == 48


def test_an_output_that_is_a_file_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["analyze", *SMALL, "--out", str(tmp_path / "file"), "--runs_root", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err


PLUGIN = """
from moe_tune.heads.temperature import TemperatureHead

class OwnHead(TemperatureHead):
    \"\"\"A head of the user's.\"\"\"
"""


def test_a_run_with_a_head_of_the_users_own_is_analysed_with_its_file_and_asks_for_it_without(tmp_path, capsys):
    file = tmp_path / "own_head.py"
    file.write_text(PLUGIN)
    plugin = ["--plugins", str(file)]
    words = ["--runs_root", str(tmp_path / "runs"), "--model.head", "OwnHead", "--model.head.tau", "0.7"]
    assert main([*plugin, "fit", *TINY, *words]) == 0
    (run,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    words = [str(run), "--shots", "0", "--sensitivity", "0", "--scopes", "answer", "--draws", "100"]
    file.write_text(f"{PLUGIN}# a remark\n")
    assert main([*plugin, "analyze", *words]) == 0
    (report,) = (run / "analysis").glob("*/report.md")
    assert report.parent.name.startswith("nano-NanoQuiz-nano_quiz-test-")
    assert "OwnHead" in report.read_text()
    del sys.modules["moe_tune_plugin_own_head"]
    assert main(["analyze", *words]) == 2
    assert "--plugins own_head.py" in capsys.readouterr().err


class RelabelledQuiz(QuestionSource):
    """The nano quiz with right answers of our choosing: routing and letters stay, correctness is ours.

    Args:
        answers: Index of the right choice of each test question; ``None`` leaves the quiz as it is.
    """

    declared_subjects = NanoQuiz.declared_subjects

    def __init__(self, answers: list[int] | None = None) -> None:
        self.quiz, self.answers = NanoQuiz(test=800), answers

    def splits(self) -> tuple[str, ...]:
        return self.quiz.splits()

    def rows(self, split: str):
        for index, row in enumerate(self.quiz.rows(split)):
            answer = row.values["answer"] if self.answers is None else self.answers[index]
            yield RawRow(row.where, {**row.values, "answer": answer})


@pytest.fixture(scope="module")
def read():
    """Give a function that reads the relabelled quiz with the nano model."""
    host = FitSettings(["--config", "configs/nano.yaml"])
    tuner = AnalysedModel(host.model, ["answer"])

    def run(answers=None):
        quiz = QuizDataModule(RelabelledQuiz(answers), protocol="nano_quiz", eval_batch_size=256)
        return tuner, run_pass(tuner, quiz, "test", host.trainer_for(plugins=[RouterCheckpointIO()]), None)

    return run


@pytest.fixture(scope="module")
def first(read):
    tuner, one = read()
    tables = one.results.evidence.tables("answer")
    return tuner, one, tables["hit_QLE"].numpy().astype(bool), tables["subject_Q"].numpy()


def labelled(one, correct_Q):
    """Return the right answers under which exactly the questions told were answered correctly."""
    return np.where(correct_Q, one.predictions_Q.numpy(), (one.predictions_Q.numpy() + 1) % 4).tolist()


def chance_by_subject(subject_Q):
    """Return a chance of a right answer that depends on the subject alone, from 0.3 to 0.9."""
    return 0.3 + 0.6 * subject_Q / subject_Q.max()


def test_an_expert_used_on_wrong_answers_only_is_flagged_through_the_whole_program(read, first):
    _, one, hit_QLE, subject_Q = first
    share_LE = hit_QLE.mean(0)
    layer, expert = np.unravel_index(np.abs(share_LE - 0.1).argmin(), share_LE.shape)
    assert 0.05 < share_LE[layer, expert] < 0.2
    draw = np.random.default_rng(0)
    correct_Q = (draw.random(len(subject_Q)) < chance_by_subject(subject_Q)) & ~hit_QLE[:, layer, expert]
    tuner, again = read(labelled(one, correct_Q))
    manner = Manner("planted", "test", False, 499, 0)
    analysis = gather([pass_part(tuner, again, manner)], manner, pd.DataFrame(), pd.DataFrame(), [], {})
    experts = analysis.experts.set_index(["layer", "expert"])
    planted = experts.loc[(layer, expert)]
    assert planted["correct"] == 0
    assert planted["flagged"]
    assert planted["p_adjusted"] == experts["p_adjusted"].min()
    assert planted["shrunk_high"] < again.results.correct / len(subject_Q)
    differ = next(one for one in analysis.claims if one["claim"].startswith("experts"))
    assert differ["verdict"] == "holds"


def test_experts_that_are_all_equal_are_seldom_flagged(first):
    """Right answers that hang on the subject alone, under the nano model's own routing, which hangs on it too."""
    hit_QLE, subject_Q = first[2][::2], first[3][::2]
    draw = np.random.default_rng(1)
    alarms = 0
    for seed in range(200):
        correct_Q = draw.random(len(subject_Q)) < chance_by_subject(subject_Q)
        alarms += bool((permutation_null(hit_QLE, correct_Q, subject_Q, 99, seed).p_adjusted_LE < 0.05).any())
    assert alarms <= 14, f"{alarms} of 200: more than 7 %"
