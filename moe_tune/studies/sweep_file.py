"""A W&B sweep file: what it varies, what it is judged by, and the arguments of ``fit`` it stands for."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, require
from moe_tune.base.plugins import load_plugin_files, without_plugins, without_trust
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.runs.directory import identity
from moe_tune.settings.arguments import as_json, config_arguments, is_inline

SWEEP_KEYS = ("method", "parameters", "program", "command", "metric", "early_terminate")
"""A mapping with one of these at its top is a sweep, not a configuration."""
NOT_IDENTITY = ("name", "description", "project", "entity", "run_cap")
"""Keys of a sweep file that change none of its points."""
PROGRAMS = ("moe_tune", "moe-tune")
FORM = "command: [${env}, python, -m, moe_tune, fit, --config, configs/nano.yaml, --config, '${args_json}']"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep file's content.

    Attributes:
        file: Where it was read.
        config: What it says, as written.
    """

    file: Path
    config: dict[str, Any]

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """What is varied: distribution by dotted key."""
        return dict(self.config["parameters"])

    @property
    def metric(self) -> str:
        """The logged value that runs are judged by."""
        return str(self.config.get("metric", {}).get("name", "validation/accuracy"))

    @property
    def maximised(self) -> bool:
        """Whether more of the metric is better; W&B's default is less, a sweep without a metric goes by accuracy."""
        return bool(self.config.get("metric", {"goal": "maximize"}).get("goal") == "maximize")

    @property
    def base(self) -> list[str]:
        """The arguments of ``fit`` that are the same for every run."""
        words = fit_words(self.config)
        place = words.index("${args_json}")
        return words[: place - 1] + words[place + 1 :]

    @property
    def configs(self) -> list[str]:
        """The configuration files every run starts from."""
        return config_arguments(self.base)

    def with_plugins(self, given: dict[str, str]) -> dict[str, str]:
        """Return sha256 by path of the plug-in files that are loaded, after loading those of the sweep's own command.

        Raises:
            ConfigError: One of them is not there.
        """
        _, files = without_plugins(_command(self.config))
        there = {Path(path).resolve() for path in given}
        return given | load_plugin_files(path for path in files if Path(path).resolve() not in there)

    def best_command(self, overlay: Path, plugins: Iterable[str]) -> str:
        """Return the command that fits the best point again, for a shell; whether to test after it is left open."""
        words = []
        for before, word in zip(["", *self.base[:-1]], self.base, strict=True):
            value = before == "--test_after_fit" and not word.startswith("-")
            if word.partition("=")[0] != "--test_after_fit" and not value:
                words.append(word)
        files = [word for path in plugins for word in ("--plugins", path)]
        said = shlex.join([*files, "fit", *words, "--config", str(overlay)])
        return f"python -m moe_tune {said}".replace("\n", " ")

    def arguments(self, values: dict[str, Any]) -> list[str]:
        """Return the arguments of ``fit`` for one point, as an agent would."""
        words = fit_words(self.config)
        return [as_json(values) if word == "${args_json}" else word for word in words]


def load_sweep(file: Path) -> Sweep:
    """Read a sweep file; what it says is checked by ``moe_tune.studies.sweep_check``.

    Raises:
        ConfigError: It is not there, is no YAML, or is no sweep.
    """
    require(file.is_file(), "a sweep file", str(file), "sweep", "configs/sweep/temperature.yaml is one to start from.")
    content = load_yaml(file)
    if not is_sweep(content):
        raise ConfigError(
            f"expected a W&B sweep but got neither method nor parameters ({file}). "
            "Hint: configs/sweep/temperature.yaml is one to start from."
        )
    return Sweep(file, content)


def sweep_folder(sweep: Sweep, runs_root: Path, seed: int, plugins: dict[str, str]) -> Path:
    """Return the folder of a sweep: another for every content, also of its base, and seed; the same for more points."""
    content = {
        "sweep": {key: value for key, value in sweep.config.items() if key not in NOT_IDENTITY},
        "bases": [value if is_inline(value) else load_yaml(Path(value)) for value in sweep.configs],
        "plugins": sorted(plugins.values()),
    }
    return runs_root / f"sweep-{sweep.file.stem}-s{seed}-{identity(content)}"


def is_sweep(content: Any) -> bool:
    """Return whether a file's content is a sweep rather than a configuration.

    Example:
        >>> is_sweep({"method": "grid"}), is_sweep({"model": {"scope": "answer"}})
        (True, False)
    """
    return isinstance(content, dict) and any(key in content for key in SWEEP_KEYS)


def fit_words(config: dict[str, Any]) -> list[str]:
    """Return what follows ``moe_tune fit`` in a sweep's command, but for plug-in files.

    Raises:
        ConfigError: The command is not of the form that survives agents.
    """
    words, _ = without_plugins(without_trust(_command(config))[0])
    fits = [place for place in range(1, len(words)) if words[place] == "fit" and words[place - 1] in PROGRAMS]
    if not fits:
        raise ConfigError(
            f"expected a command that runs moe_tune fit but got {config.get('command')!r} (command). Hint: {FORM}."
        )
    rest = words[fits[0] + 1 :]
    if [*rest, ""].count("${args_json}") != 1 or rest[rest.index("${args_json}") - 1] != "--config":
        raise ConfigError(
            "expected the parameters as --config, ${args_json} but got "
            f"{' '.join(word for word in rest if '$' in word) or 'none'} (command): text forms turn null into 'None'. "
            f"Hint: {FORM}."
        )
    return rest


def _command(config: dict[str, Any]) -> list[str]:
    command = config.get("command")
    return [str(word) for word in command] if isinstance(command, list) else []
