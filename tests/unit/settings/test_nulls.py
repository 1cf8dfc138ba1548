"""``null`` passes exactly where the type has a place for it."""

from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace

from moe_tune.base.errors import ConfigError
from moe_tune.settings.nulls import refuse_nulls


class Options:
    """Has a place for nothing at one key only."""

    def __init__(self, size: int = 3, name: str | None = "x", anything: Any = 1) -> None:
        self.size, self.name, self.anything = size, name, anything


def parser():
    one = ArgumentParser(exit_on_error=False)
    one.add_argument("--size", type=int, default=3)
    one.add_argument("--name", type=str | None, default="x")
    return one


@pytest.mark.parametrize(("key", "refused"), [("size", True), ("name", False)])
def test_a_key_without_a_place_for_nothing_refuses_it(key, refused):
    settings = Namespace(size=3, name="x")
    settings[key] = None
    if not refused:
        refuse_nulls(parser(), settings)
        return
    with pytest.raises(ConfigError, match=rf"null \({key}\).*default is 3"):
        refuse_nulls(parser(), settings)


@pytest.mark.parametrize(("option", "refused"), [("size", True), ("name", False), ("anything", False)])
def test_so_does_an_option_of_a_class(option, refused):
    path = f"{Options.__module__}.{Options.__qualname__}"
    settings = Namespace(size=3, name="x", head=Namespace(class_path=path, init_args=Namespace(**{option: None})))
    if not refused:
        refuse_nulls(parser(), settings)
        return
    with pytest.raises(ConfigError, match=rf"null \(head\.init_args\.{option}\)"):
        refuse_nulls(parser(), settings)
