"""What the golden comparison runs: small commands on the nano model that between them pass through every room."""

import json
from dataclasses import dataclass, field

BASE = ("configs/nano.yaml", "configs/debug/tiny.yaml", "configs/logger/none.yaml")
QUICK = (
    "--trainer.enable_progress_bar=false --trainer.log_every_n_steps=1 --model.base.experts_implementation=grouped_mm "
    "--data.source.train=1024 --data.source.test=512"
)


def configs(*files):
    return " ".join(f"--config {file}" for file in files)


TINY = f"{configs(*BASE)} {QUICK}"
BIAS = "--model.head{}.n_min=2 --model.head{}.shrinkage=10"


@dataclass(frozen=True)
class Case:
    """Commands that are run one after the other in a folder of the case's own.

    Args:
        commands: What follows ``python -m moe_tune``; a word with a ``*`` stands for the paths it matches.
        needs: Cases whose outputs the commands read, in the folders beside this one.
        files: Content of files that lie in the folder beforehand.
    """

    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


def fit(name, words):
    return f"fit {TINY} --name {name} {words}"


# JSON is YAML, too.
EXPERIMENT = {
    "name": "tiny",
    "claim": "Two arms are compared.",
    "base": [*BASE],
    "seeds": [0, 1],
    "splits": {"test": "quiz", "test_nano_textbook": "textbook"},
    "arms": {
        "identity": ["configs/head/identity.yaml"],
        "dense": ["configs/head/dense_mixer.yaml", "model.layers=last-2", "optimizer.lr=0.01"],
    },
}
SWEEP = {
    "method": "grid",
    "metric": {"name": "validation/accuracy", "goal": "maximize"},
    "parameters": {"optimizer.lr": {"values": [0.003, 0.03]}},
    "command": f"${{env}} python -m moe_tune fit {TINY} --test_after_fit=false --config ${{args_json}}".split(),
}
FITS = {
    "full": "--model.answer_path.use never --model.scope all",
    "trunk": "--model.answer_path.use trunk --model.scope all --model.layers last-2",
    "stack": f"{configs('configs/head/stack.yaml')} --data.few_shot=2 --model.layers=last-3 "
    + BIAS.replace("{}", ".parts.accuracy_bias"),
    "lora": configs("configs/peft/attention.yaml"),
    "lora_router": f"{configs('configs/peft/router.yaml')} --test_after_fit=false",
    "loss_answer": "--model.losses.balance LoadBalanceLoss --model.losses.balance.weight=0.1 "
    "--model.losses.distil RouterDistillationLoss --model.losses.distil.weight=0.1 "
    "--trainer.accumulate_grad_batches=2 --test_after_fit=false",
    "loss_all": f"{configs('configs/losses/balance_z.yaml')} --model.losses.z.scope=all",
}
CASES = {
    # With the logger of nano.yaml, whose path stands in the saved configuration and in the hash of the run's name.
    "answer": Case(
        (
            f"fit {configs(*BASE[:2])} {QUICK} --name answer --trainer.max_epochs=2",
            "predict --ckpt_path runs/answer-*/checkpoints/best.ckpt",
        )
    ),
    **{name: Case((fit(name, words),)) for name, words in FITS.items()},
    "analyze": Case(
        ("analyze ../answer/runs/answer-* --split validation --shots 0 2 --sensitivity 12 --draws 200 --out analysis",),
        needs=("answer",),
    ),
    "compare": Case(
        (
            fit("calibrated", f"{configs('configs/head/accuracy_bias.yaml')} {BIAS.replace('{}', '')}"),
            "compare ../answer/runs/answer-* runs/calibrated-*",
        ),
        needs=("answer",),
    ),
    "experiment": Case(("experiment claim",), files={"claim/experiment.yaml": json.dumps(EXPERIMENT, indent=2)}),
    "sweep": Case(("sweep rates.yaml",), files={"rates.yaml": json.dumps(SWEEP, indent=2)}),
    "grid": Case(
        (f"grid {TINY} {configs('configs/head/temperature.yaml')} --vary model.head.tau=0.5,2.0 --format=json",)
    ),
}


def with_needs(names):
    """Return the cases of these names and those that they read, in the order of running."""
    wanted = set(names) | {need for name in names for need in CASES[name].needs}
    return {name: case for name, case in CASES.items() if name in wanted}
