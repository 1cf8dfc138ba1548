"""Secrets that are planted in a fit are in nothing that it writes or says."""

import functools

from cases_endings import ROOT, TINY

from moe_tune.faults.case import Case

HUB, WANDB, OTHER = "hf_" + "Qx7" * 12, "5e" * 20, "Zq9-planted-Zq9"
"""In the shapes of a Hub token and of a W&B key, and one without a shape."""
FIT = ["fit", *TINY[:-1], f"{ROOT}/configs/logger/wandb.yaml", "--trainer.max_epochs", "1"]
OFFLINE = {"WANDB_MODE": "offline"}
GIVEN = "given"
SOURCE = """
from moe_tune.data.nano_quiz import NanoQuiz


class LockedQuiz(NanoQuiz):
    def __init__(self, api_token: str = "", train: int = 64, validation: int = 32, test: int = 32) -> None:
        super().__init__(train, validation, test)
"""


def said_and_written(trial, *secrets):
    """Return where the secrets are, apart from what the user wrote."""
    files = (file for file in trial.folder.rglob("*") if file.is_file() and GIVEN not in file.parts)
    return sorted({file.name for file in files if any(one.encode() in file.read_bytes() for one in secrets)})


def planted(code, attempt, secrets, trial):
    (trial.folder / GIVEN).mkdir()
    (trial.folder / GIVEN / "locked.py").write_text(SOURCE)
    ended = attempt(trial)
    found = said_and_written(trial, *secrets)
    wanted = "" if ended.code == code else f" {ended.err[-300:]}"
    return f"exit {ended.code}, {f'found in {found}' if found else 'nowhere'}{wanted}"


def in_environment(name, secret, trial):
    return trial.run(FIT, {**OFFLINE, name: secret, "HOME": str(trial.folder)})


def in_address(trial):
    env = {"HF_ENDPOINT": f"http://me:{OTHER}@127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HOME": str(trial.folder)}
    return trial.fresh([*FIT, "--model.base.path", "a/b", "--model.base.revision", "a" * 40], {**OFFLINE, **env})


def in_configuration(trial):
    (trial.folder / GIVEN / "locked.yaml").write_text(
        f"data: {{source: {{class_path: LockedQuiz, init_args: {{api_token: {OTHER}}}}}}}\n"
    )
    words = [*FIT, "--config", f"{GIVEN}/locked.yaml"]
    return trial.run(["--plugins", f"{GIVEN}/locked.py", *words], OFFLINE)


def on_the_command_line(trial):
    words = [*FIT, "--data.source", "LockedQuiz", "--data.source.api_token", OTHER]
    return trial.run(["--plugins", f"{GIVEN}/locked.py", *words], OFFLINE)


def in_exception(trial):
    return trial.run(FIT, {**OFFLINE, "HF_TOKEN": HUB}, raising)


def raising():
    """Let a step of training fail with a message that has secrets in it."""
    from moe_tune.tuner.router_tuner import RouterTuner

    def fails(self, batch, index):
        raise RuntimeError(f"401 for https://me:{OTHER}@example.org/a, api_key={OTHER}, {HUB}")

    RouterTuner.training_step = fails


def case(name, code, attempt, *secrets):
    return Case("secret", name, f"exit {code}, nowhere", functools.partial(planted, code, attempt, secrets))


CASES = [
    case("HF_TOKEN", 0, functools.partial(in_environment, "HF_TOKEN", HUB), HUB),
    case("WANDB_API_KEY", 0, functools.partial(in_environment, "WANDB_API_KEY", WANDB), WANDB),
    case("in an address", 7, in_address, OTHER),
    case("a key of the configuration", 0, in_configuration, OTHER),
    case("on the command line", 0, on_the_command_line, OTHER),
    case("in the message of an exception", 1, in_exception, OTHER, HUB),
]
