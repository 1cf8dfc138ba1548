"""Files of others: a run, a checkpoint, a model or a configuration that would run code leaves no trace of having run."""
# ruff: noqa: E501 - one row a case

import atexit
import hashlib
import importlib
import io
import json
import pickle
import shutil
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from threading import Lock

import yaml

from moe_tune.faults.case import Case

ROOT = Path(__file__).parents[2]
TINY = [word for name in ("nano", "debug/tiny", "logger/none") for word in ("--config", f"{ROOT}/configs/{name}.yaml")]
FOREIGN = "foreign_module.Thing"
CANARY = "canary"
CHECKPOINT = "runs/theirs/checkpoints/best.ckpt"
_LOCK = Lock()
OF_A_RUN = {
    "a head": {"model.head": {"class_path": FOREIGN}},
    "a head within a head": {"model.head": {"class_path": "Guard", "init_args": {"head": {"class_path": FOREIGN}}}},
    "a head by its path alone": {"model.head": FOREIGN},
    "a loss": {"model.losses": {"z": {"class_path": FOREIGN}}},
    "a source": {"data.source": {"class_path": FOREIGN}},
    "a further source": {"data.test_sources": {"more": {"class_path": FOREIGN}}},
    "a callback": {"trainer.callbacks": [{"class_path": FOREIGN}]},
    "a callback by its path alone": {"trainer.callbacks": [FOREIGN]},
    "a logger": {"trainer.logger": {"class_path": FOREIGN}},
    "an optimiser": {"optimizer": {"class_path": FOREIGN}},
    "a scheduler": {"lr_scheduler": {"class_path": FOREIGN}},
    "a strategy": {"trainer.strategy": FOREIGN},
    "a dotted class_path": {"model.head.class_path": FOREIGN},
    "a _class_path": {"model.head": {"class_path": "RetunedHead", "init_args": {"_class_path": FOREIGN}}},
    "an _instantiator": {"data.source": {"class_path": "NanoQuiz", "_instantiator": FOREIGN}},
    "os.system by way of a class of ours": {"model.head": {"class_path": "moe_tune.cli.main.sys.modules"}},
}
VERBS = {
    "validate": ["validate", "theirs"],
    "test": ["test", "--ckpt_path", CHECKPOINT],
    "predict": ["predict", "theirs"],
    "fit from its checkpoint": ["fit", "--ckpt_path", CHECKPOINT, "--name", "mine"],
    "analyze": ["analyze", "theirs"],
    "ablate": ["ablate", "theirs"],
    "trace": ["trace", "theirs", "text"],
    "generate": ["generate", "theirs", "text"],
    "export": ["export", "theirs"],
    "export --fold": ["export", "theirs", "--fold"],
    "compare": ["compare", "theirs"],
    "grid": ["grid", *TINY, "--checkpoints", CHECKPOINT],
    "prune": ["prune", "--config", f"{CHECKPOINT}/config.yaml", "--criterion", "NeverActivated"],
    "lm-eval": ["lm-eval", "theirs", "--tasks", "arc_easy"],
    "check": ["check", f"{CHECKPOINT}/config.yaml"],
    "estimate": ["estimate", "--config", f"{CHECKPOINT}/config.yaml"],
    "a mean of runs": ["check", "mean.yaml"],
}


@cache
def _their_run(folder):
    """Return a finished run, made once for all cases."""
    from moe_tune.faults.trial import Trial

    made = Trial(folder)
    ended = made.run(["fit", *TINY])
    assert ended.code == 0, ended.err
    return next(folder.glob("runs/nano-*"))


@cache
def _kept():
    folder = Path(tempfile.mkdtemp(prefix="moe_tune-fault-theirs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _placed(trial, change):
    """Put a run whose configurations name a foreign class where the case runs, and the module beside it."""
    with _LOCK:
        origin = _their_run(_kept())
    (trial.folder / "foreign_module.py").write_text(f"open({str(trial.folder / CANARY)!r}, 'w').write('ran')\n")
    shutil.copytree(origin, trial.folder / "runs" / "theirs")
    for file in (trial.folder / "runs/theirs").rglob("config.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key, value in change.items():
            *sections, last = key.split(".")
            place = content
            for section in sections:
                place = place[section]
            place[last] = value
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        _signed(file.parent)
    mean = {
        "model": {"head": {"class_path": "MeanOfRuns", "init_args": {"runs": ["theirs"]}}},
        "data": {"source": "NanoQuiz"},
    }
    (trial.folder / "mean.yaml").write_text(yaml.safe_dump(mean), encoding="utf-8")


def _signed(folder):
    """Give a checkpoint hashes that fit its files."""
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if "sha256" in content:
        content["sha256"] = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["sha256"]
        }
        manifest.write_text(json.dumps(content), encoding="utf-8")


def _told(trial, ended, words):
    lines = [one for one in ended.err.splitlines() if one.startswith("moe_tune: ")]
    ran = "; ITS CODE RAN" if (trial.folder / CANARY).exists() else ""
    if len(lines) == 1 and words in lines[0] and "Hint: " in lines[0] and not ran:
        return f"{ended.code} refused"
    return f"{ended.code}{ran}: {ended.err.strip()[-300:]}"


def _of_run(change, argv):
    def attempt(trial):
        _placed(trial, change)
        return _told(trial, trial.run(argv, before=_here), "not imported")

    return attempt


def _here():
    """Let the case's own folder be imported from, as ``python -m`` does."""
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()


def _trusted(trial):
    """The negative control: with --trust the module is imported, so that the canary proves something."""
    _placed(trial, OF_A_RUN["a callback"])
    ended = trial.run(["--trust", "check", f"{CHECKPOINT}/config.yaml"], before=_here)
    return (
        "its code ran" if (trial.folder / CANARY).exists() else f"the canary does not bite: {ended.err.strip()[-300:]}"
    )


class _Gadget:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def _pickled(trial, name="theirs.ckpt"):
    """A Lightning checkpoint of one file, whose pickle opens the canary."""
    content = io.BytesIO()
    pickle.dump({"state_dict": _Gadget(str(trial.folder / CANARY))}, content)
    with zipfile.ZipFile(trial.folder / name, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/version", "3")
    return _told(trial, trial.run(["test", *TINY, "--ckpt_path", name]), "expected a checkpoint folder")


def _first_format(trial):
    """A checkpoint of the first format, whose ``trainer.pt`` is a gadget."""
    _placed(trial, {})
    folder = trial.folder / CHECKPOINT
    content = io.BytesIO()
    pickle.dump(_Gadget(str(trial.folder / CANARY)), content)
    (folder / "trainer.pt").write_bytes(content.getvalue())
    hashes = dict.fromkeys(("router.safetensors", "trainer.pt", "config.yaml"), "")
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "sha256": hashes}), encoding="utf-8")
    _signed(folder)
    return _told(trial, trial.run(["test", "--ckpt_path", CHECKPOINT]), "refused untrusted object")


def _instantiator(trial):
    """Hyper-parameters in the state of a checkpoint, as Lightning would once have made objects of."""
    _placed(trial, {})
    file = trial.folder / CHECKPOINT / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["hyper_parameters"] = {"_instantiator": FOREIGN, "_class_path": FOREIGN}
    file.write_text(json.dumps(state), encoding="utf-8")
    _signed(file.parent)
    ended = trial.run(["validate", "--ckpt_path", CHECKPOINT], before=_here)
    ran = (trial.folder / CANARY).exists()
    return f"{ended.code} {'ITS CODE RAN' if ran else 'not looked at'}"


def _yaml_tag(trial):
    path = str(trial.folder / CANARY)
    (trial.folder / "theirs.yaml").write_text(f"name: !!python/object/apply:builtins.open [{path}, w]\n")
    return _told(trial, trial.run(["fit", "--config", "theirs.yaml"]), "YAML")


def _plugin(trial):
    """A plug-in that a run names and nobody gave, lying about as a module."""
    _placed(trial, {"model.head": {"class_path": "moe_tune_plugin_mine.Thing"}})
    shutil.copy(trial.folder / "foreign_module.py", trial.folder / "moe_tune_plugin_mine.py")
    return _told(trial, trial.run(["validate", "theirs"], before=_here), "expected the plug-in file mine.py")


def _base(change, words):
    def attempt(trial):
        folder = trial.folder / "base"
        shutil.copytree(ROOT / "moe_tune/models/nano", folder)
        (folder / "foreign_module.py").write_text(f"open({str(trial.folder / CANARY)!r}, 'w').write('ran')\n")
        change(folder)
        return _told(trial, trial.run(["fit", *TINY, "--model.base.path", "base"], env={"HF_HUB_OFFLINE": "1"}), words)

    return attempt


def _config(**fields):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")

    return change


def _bin_alone(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Gadget(str(folder.parent / CANARY))))


def _card(trial):
    """A configuration of others that writes elsewhere: where runs go is the command's word."""
    _placed(trial, {"runs_root": "../elsewhere", "name": "../../x"})
    ended = trial.run(["validate", "theirs"])
    outside = [one.name for one in trial.folder.parent.glob("elsewhere*")]
    return f"{ended.code} {outside or 'inside'}"


def _megatron(trial):
    """A LoRA for Megatron, whose module PEFT would import, lying about."""
    _placed(trial, {"model.peft": {"target_modules": ["q_proj"], "megatron_config": {"a": 1}}})
    shutil.copy(trial.folder / "foreign_module.py", trial.folder / "megatron.py")
    return _told(trial, trial.run(["validate", "theirs"], before=_here), "would import")


def _cache_elsewhere(trial):
    """A folder for prompt caches of others, which holds none."""
    _placed(trial, {"model.answer_path": {"folder": str(trial.folder / "elsewhere")}})
    ended = trial.run(["validate", "theirs"])
    return f"{ended.code} {'WRITTEN' if (trial.folder / 'elsewhere').exists() else 'nothing there'}"


AUTO = {"AutoConfig": "foreign_module.Thing", "AutoModelForCausalLM": "foreign_module.Thing"}
RUN_HEAD = OF_A_RUN["a head"]
CASES = [
    *(Case("malicious", f"check, {what} of a run", "4 refused", _of_run(change, VERBS["check"])) for what, change in OF_A_RUN.items()),
    *(Case("malicious", f"{verb}, a head of a run", "4 refused", _of_run(RUN_HEAD, argv)) for verb, argv in VERBS.items()),
    *(
        Case("malicious", f"validate, {what} of a checkpoint", "4 refused", _of_run(OF_A_RUN[what], VERBS["validate"]))
        for what in ("a callback", "a logger", "an optimiser", "a source")
    ),
    Case("malicious", "the same with --trust (control)", "its code ran", _trusted),
    Case("malicious", "a plug-in that is named but not given", "2 refused", _plugin),
    Case("malicious", "a Python object in YAML", "2 refused", _yaml_tag),
    Case("malicious", "a run that says where to write", "0 inside", _card),
    Case("malicious", "a run that says where to keep prompts", "0 nothing there", _cache_elsewhere),
    Case("malicious", "a LoRA that has a module imported", "2 refused", _megatron),
    Case("F24", "a pickle gadget as checkpoint", "4 refused", _pickled),
    Case("F24", "a pickle gadget in the first format", "4 refused", _first_format),
    Case("F24", "_instantiator in a checkpoint's state", "0 not looked at", _instantiator),
    Case("F25", "auto_map in the base model", "4 refused", _base(_config(auto_map=AUTO), "auto_map")),
    Case("F25", "_attn_implementation_internal in the base model", "4 refused", _base(_config(_attn_implementation_internal="x/y"), "_attn_implementation_internal")),
    Case("F25", "a base model of .bin weights alone", "4 refused", _base(_bin_alone, "safetensors")),
]  # fmt: skip
