"""What cfcf61f was asked for to make the runs, names and prompt caches in ``old/``, and what is read of them."""

import json
from itertools import zip_longest
from pathlib import Path

OLD = Path(__file__).with_name("old")
PLUGIN = ["--plugins", "old_head.py"]

NANO = [
    *("--config", "configs/nano.yaml", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
    *("--model.base.experts_implementation=grouped_mm", "--data.test_protocols=[]", "--data.batch_size=16"),
    *("--data.source.train=64", "--data.source.validation=64", "--data.source.test=64"),
]
TRAINED = ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.3", "--optimizer.momentum=0.9", "--model.layers=last-1"]
SILENT = ["--config", "configs/logger/none.yaml"]
FITS = {
    # With the logger of nano.yaml: its path stands in the saved configuration and in the hash of the name.
    "finished": ["fit", *NANO, *TRAINED, "--trainer.max_epochs=1"],
    "plugin": [
        *(*PLUGIN, "fit", *NANO, *SILENT, *TRAINED, "--trainer.max_epochs=1", "--name=plugin"),
        *("--model.head=OldHead", "--model.losses.old=OldLoss", "--model.losses.old.weight=0.001"),
    ],
    "interrupted": ["fit", *NANO, *SILENT, *TRAINED, "--trainer.max_epochs=2", "--name=interrupted"],
}
"""The runs that are kept; the last one was killed in its second epoch."""
NARROW = [*NANO, *SILENT, "--model.layers=last-1"]
TEMPERATURE = ["--model.head=TemperatureHead", "--model.head.tau=0.5"]
CACHED = {
    "prompts": ["validate", *NARROW, *TEMPERATURE, "--data.limit_validation=6"],
    "shots": ["validate", *NARROW, *TEMPERATURE, "--data.limit_validation=4", "--data.few_shot=2"],
    "trunk": [
        *("fit", *NARROW, "--model.answer_path.use=trunk", "--model.scope=all", "--data.limit_train=6"),
        *("--trainer.max_epochs=1", "--test_after_fit=false", "--optimizer=torch.optim.SGD", "--optimizer.lr=0.3"),
    ],
}
"""What used each of the kept prompt caches."""

HEADS = (
    *("accuracy_bias", "cosine", "default_expert", "dense_mixer", "entropy_k", "identity", "jitter", "loss_free_bias"),
    *("low_rank", "mlp", "noisy_top_k", "post_softmax", "quantile_balance", "relu", "renormalised", "retuned"),
    *("retuned_temperature", "scale_bias", "sigmoid", "sinkhorn", "stack", "steer", "temperature"),
    *("temperature_learned", "top_p"),
)
LOSSES = (
    *("accuracy_pull", "balance_z", "dead_expert_hinge", "expert_orthogonality", "global_load_balance"),
    *(
        "load_concentration",
        "marginal_entropy",
        "mutual_information",
        "none",
        "pooled",
        "probability_variance",
        "relu_l1",
    ),
    *("router_distillation", "router_orthogonality", "routing_anchor", "sequence_load_balance", "sharpen"),
    *("squared_variation", "uniform_distance"),
)
OTHERS = (
    *("peft/attention", "peft/experts", "peft/router", "trainer/accumulate", "trainer/bf16", "trainer/cpu"),
    *("trainer/ddp", "trainer/gradient_checkpointing", "logger/csv", "logger/none", "logger/tensorboard"),
    *("logger/wandb", "debug/overfit", "debug/tiny"),
)


def named_commands():
    """Return the arguments of fits whose folders' names are kept: every overlay is in one of them at least."""
    overlays = [("head", HEADS), ("losses", LOSSES), ("", OTHERS)]
    columns = [[str(Path("configs", folder, f"{name}.yaml")) for name in names] for folder, names in overlays]
    rows = [[file for file in row if file] for row in zip_longest(*columns)]
    mixed = [[word for file in ("configs/nano.yaml", *row) for word in ("--config", file)] for row in rows]
    evidence = '{"class_path": "moe_tune.callbacks.evidence_log.EvidenceLog", "init_args": {"train": true}}'
    return [
        ["--config", "configs/nano.yaml"],
        ["--config", "configs/mmlu_offline.yaml"],
        ["--config", "configs/olmoe_mmlu.yaml", "--seed_everything", "3"],
        ["--model.base.path=nano", "--data.source=NanoQuiz"],
        ["--config", "configs/nano.yaml", f"--trainer.callbacks+={evidence}"],
        *mixed,
    ]


def losses(run):
    """Return the losses of a run's steps, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]
