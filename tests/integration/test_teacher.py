"""A teacher: the losses it gives, what is kept of it, and that a damaged router learns back from the model before."""

import gc
import weakref

import pytest
import torch
from tiny_runs import TINY, history, only_run

from moe_tune.cli.main import main
from moe_tune.models.base_model import BaseModel

DISTIL = [
    *("--model.losses.distillation", "RouterDistillationLoss", "--trainer.log_every_n_steps", "1"),
    *("--trainer.gradient_clip_val", "null", "--trainer.max_epochs", "2"),
]
DESCENT = ["--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.1"]
"""So gentle that the last bits of a loss do not grow from step to step."""
TEXT = ["--config", "configs/task/next_token.yaml", "--data.text.source.documents", "60"]
NANO = ["--model.teacher.path", "nano"]


def fit(root, *words, code=0):
    assert main(["fit", *TINY, *DISTIL, *words, "--runs_root", str(root)]) == code
    return only_run(root) if code == 0 else None


def distilled(run):
    return [one["train/loss_distillation"] for one in history(run) if "train/loss_distillation" in one]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Give the folder of a nano whose routers in the last two layers were shaken."""
    folder = tmp_path_factory.mktemp("models") / "damaged"
    model, _ = BaseModel("nano").load()
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.mlp.gate.weight += 0.5 * torch.randn_like(layer.mlp.gate.weight)
    model.save_pretrained(folder)
    BaseModel("nano").load_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("words", [[], TEXT, ["--model.scope", "all"]], ids=["quiz", "text", "scope all"])
def test_the_base_itself_as_teacher_gives_the_losses_of_the_pretrained_router(tmp_path, words):
    by_teacher = fit(tmp_path / "one", *DESCENT, *words, *NANO)
    by_router = fit(tmp_path / "other", *DESCENT, *words)
    assert len(distilled(by_teacher)) > 2
    assert distilled(by_teacher)[-1] > 0
    torch.testing.assert_close(
        torch.tensor(distilled(by_teacher)), torch.tensor(distilled(by_router)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("words", [[], TEXT], ids=["quiz", "text"])
def test_a_damaged_router_comes_back_towards_the_model_before(tmp_path, damaged, words):
    run = fit(tmp_path, "--model.base.path", str(damaged), "--model.task_weight", "0", *NANO, *words)
    losses = distilled(run)
    assert losses[-1] < 0.7 * losses[0]


def test_the_teacher_is_gone_when_the_student_comes_and_is_loaded_once(tmp_path, damaged, monkeypatch):
    loaded, alive = [], []
    load = BaseModel.load

    def watched(self):
        gc.collect()
        alive.append([path for path, model in loaded if model() is not None])
        model, family = load(self)
        loaded.append((self.path, weakref.ref(model)))
        return model, family

    monkeypatch.setattr(BaseModel, "load", watched)
    words = ["--model.base.path", str(damaged), "--seed_everything", "77", "--model.answer_path.folder"]
    folder = str(tmp_path / "kept")
    fit(tmp_path / "one", *words, folder, *NANO)
    assert [path for path, _ in loaded][:2] == ["nano", str(damaged)]
    assert not any(alive[:2])
    loaded.clear()
    fit(tmp_path / "other", *words, folder, *NANO, "--optimizer.lr", "0.001")
    assert "nano" not in [path for path, _ in loaded]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.teacher.path", "nano", "--model.losses", "{}"], "a loss that reads the teacher"),
        ([*NANO, "--model.teacher.dtype", "bfloat16"], "the teacher's output projection"),
        ([*NANO, "--data.protocol", "cloze"], "no answer position"),
        ([*NANO, "--model.answer_path.limit_gb", "0"], "at most 0 GB"),
    ],
)
def test_what_cannot_teach_is_one_clear_line(tmp_path, capsys, words, said):
    code = main(["fit", *TINY, *DISTIL, *words, "--runs_root", str(tmp_path)])
    assert code in (2, 3, 4)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
