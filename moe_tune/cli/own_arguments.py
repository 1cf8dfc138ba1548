"""The arguments of verbs that take only their own: argparse, with mistakes told as everywhere else."""

import argparse
import re
from typing import NoReturn

from moe_tune.base.errors import ConfigError, did_you_mean

CHOICE = re.compile(r"argument (?P<name>.+?): invalid choice: (?P<value>.+?) \(choose from")
TYPE = re.compile(r"argument (?P<name>.+?): invalid (?P<kind>\w+) value: (?P<value>.+)")
COUNT = re.compile(r"argument (?P<name>.+?): expected (?P<wanted>.+)")
MISSING = re.compile(r"the following arguments are required: (?P<name>.+)")
UNKNOWN = re.compile(r"unrecognized arguments: (?P<words>.+)")


class OwnArguments(argparse.ArgumentParser):
    """A parser whose mistakes are faults of one message, instead of its usage and an exit.

    Raises:
        ConfigError: An argument is unknown, missing or none of those there are.
    """

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint in the form that all faults have."""
        where = f"({self.prog.removeprefix('moe_tune ')})"
        usage = f"python -m {' '.join(self.format_usage().removeprefix('usage: ').split())}"
        if found := CHOICE.match(message):
            name, value = found["name"], found["value"].strip("'")
            told = f"a known {name} but got {value!r} {where}. Hint: {did_you_mean(value, self._known(name))}"
        elif found := TYPE.match(message):
            told = f"{found['kind']} but got {found['value']} ({found['name']}). Hint: {usage}"
        elif found := COUNT.match(message):
            told = f"{found['wanted']} but got none ({found['name']}). Hint: {usage}"
        elif found := MISSING.match(message):
            known = self._known(found["name"])
            told = f"{found['name']} but got nothing {where}. Hint: {did_you_mean('', known) if known else usage}"
        elif found := UNKNOWN.match(message):
            word = found["words"].split()[0]
            options = [one for action in self._actions for one in action.option_strings]
            hint = did_you_mean(word.partition("=")[0], options) if word.startswith("-") else usage
            told = f"a known {'option' if word.startswith('-') else 'argument'} but got {word!r} {where}. Hint: {hint}"
        else:
            told = f"other arguments but got: {message} {where}. Hint: {usage}"
        raise ConfigError(f"expected {told}")

    def _known(self, name: str) -> list[str]:
        every = (one for one in self._actions if name in (one.dest, one.metavar, "/".join(one.option_strings)))
        return [str(value) for action in every for value in action.choices or ()]
