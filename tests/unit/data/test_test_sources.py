"""Further sources are further test splits: asked under their own name, never trained on, and nothing else moves."""

import jsonargparse
import pytest
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import ConfigError
from moe_tune.data.module import QuizDataModule
from moe_tune.runs.directory import identity
from moe_tune.settings.command import Command


def module(tokenizer=None, **options):
    own = ListSource(train=rows_of(12), validation=rows_of(6, start=20), test=rows_of(8, start=40))
    made = QuizDataModule(own, batch_size=4, **options)
    if tokenizer is not None:
        made.prepare(tokenizer, 4096)
    return made


def other(*more, dev=()):
    return ListSource(test=[*rows_of(6, ("zoology", "maps"), start=60), *more], **({"dev": dev} if dev else {}))


def test_each_source_is_a_test_split_of_its_own(olmo_tokenizer):
    plain, both = (
        module(olmo_tokenizer),
        module(olmo_tokenizer, test_protocols=["nano_quiz"], test_sources={"zoo": other()}),
    )
    assert both.test_names == ["test", "test_nano_quiz", "test_zoo"]
    assert [one.stem for one in both.questions("test_zoo")] == [f"Question {60 + one}?" for one in range(6)]
    assert len(both.test_dataloader()) == 3
    assert both.protocol_name("test_zoo") == both.protocol_name("test")
    assert both.subjects == [*plain.subjects, "zoology"]
    (batch,) = list(both.loader("test_zoo"))[:1]
    named = {both.subjects[index] for index in batch.subject_B.tolist()}
    assert named == {"zoology", "maps"}
    for split in ("train", "validation", "test"):
        assert both.questions(split) == plain.questions(split)
    assert both.manifest["test_sources"]["test_zoo"]["splits"]["test"]["n"] == 6
    assert "test_sources" not in plain.manifest


def test_what_a_source_tests_is_not_trained_on():
    leaked = rows_of(12)[3]
    kept = module(test_sources={"zoo": other(leaked)})
    assert leaked["question"] in {one.stem for one in module().questions("train")}
    assert leaked["question"] not in {one.stem for one in kept.questions("train")}
    assert len(kept.splits.manifest()["removed_because_in_test"]["train"]) == 1


def test_a_limit_and_worked_examples_are_the_sources_own(olmo_tokenizer):
    shown = [row("An example?", "zoology"), row("Another example?", "maps")]
    made = module(olmo_tokenizer, few_shot=1, limit_test=4, test_sources={"zoo": other(dev=shown)})
    assert len(made.questions("test_zoo")) == 4
    text = olmo_tokenizer.decode(made.encoded("test_zoo").prompts[0].ids_S)
    assert "xample?" in text


@pytest.mark.parametrize("name", ["a b", "nano_quiz", "x.base"])
def test_a_name_that_is_taken_or_no_word_is_refused(name):
    with pytest.raises(ConfigError, match=r"data\.test_sources"):
        module(test_protocols=["nano_quiz"], test_sources={name: other()})


def test_a_missing_key_leaves_names_as_they_were_and_a_given_one_does_not():
    config = {"data": {"source": {"class_path": "NanoQuiz"}}, "seed_everything": 0}
    with_key = {**config, "data": {**config["data"], "test_sources": {}}}
    given = {**config, "data": {**config["data"], "test_sources": {"zoo": {"class_path": "NanoQuiz"}}}}
    assert identity(with_key) == identity(config) != identity(given)


def test_the_command_line_takes_sources_by_name():
    words = ["--data.test_sources.hard=NanoQuiz", "--data.test_sources.hard.test=64", "--data.test_sources.hard.seed=7"]
    settings = Command(["test", "--config", "configs/nano.yaml", *words]).settings
    assert isinstance(settings.data.test_sources["hard"], jsonargparse.Namespace)
    made = Command(["test", "--config", "configs/nano.yaml", *words]).made(logger=False).data
    assert made.test_names == ["test", "test_nano_textbook", "test_hard"]
    assert len(made.test_sources["test_hard"].questions("test")) == 64
