"""Which classes a configuration may name where it is not the user's own: what is foreign is refused, never imported."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from moe_tune.base.errors import ModelError

ALLOWED = ("moe_tune", "lightning.pytorch", "torch.optim", "torch.nn", "peft")
"""Packages whose classes any configuration may name; files given with ``--plugins`` are the user's word."""
RE_EXPORTED = "lightning.fabric"
"""Where classes are defined that ``lightning.pytorch`` names as its own."""
GADGETS = ("_class_path", "_instantiator")
"""Keys by which files have made libraries call what they name; no configuration of ours has them."""
PLUGIN = "moe_tune_plugin_"
"""What the module names of a user's own files begin with."""

_SLOTS = re.compile(
    r"(model\.(head|losses)|data\.(source|test_sources|text)|optimizer|lr_scheduler|criterion"
    r"|trainer\.(logger|callbacks|plugins|strategy|profiler|accelerator))(\W|$)|(.*\.)?class_path$"
)
"""Dotted keys under which a bare text can be a class."""
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_FILE_END = re.compile(r".*\.(jsonl?|csv|tsv|parquet|ya?ml|txt|safetensors|md)", re.IGNORECASE)
_TRUSTING: ContextVar[bool] = ContextVar("trusting", default=False)


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Let configurations name any class while this lasts, as ``--trust`` does.

    Args:
        trust: Whether they may.
    """
    token = _TRUSTING.set(trust)
    try:
        yield
    finally:
        _TRUSTING.reset(token)


def is_trusting() -> bool:
    """Return whether configurations may name any class."""
    return _TRUSTING.get()


def is_allowed(path: str) -> bool:
    """Return whether any configuration may name a class.

    Example:
        >>> [is_allowed(path) for path in ("moe_tune.heads.jitter.JitterHead", "JitterHead", "os.system", "peftx.A")]
        [True, True, False, False]
    """
    module, _, name = path.rpartition(".")
    if not module or any(path.startswith(f"{one}.") for one in ALLOWED):
        return True
    loaded = vars(sys.modules[module]).get(name) if module in sys.modules else None
    # Classes that the user's own program has imported, and made for this one, are the user's word, too.
    ours = isinstance(loaded, type) and any(one.__module__.startswith("moe_tune.") for one in loaded.__mro__[1:])
    return ours or (loaded is not None and module.startswith(PLUGIN))


@contextmanager
def guarded_imports(known: Iterable[type] = ()) -> Iterator[None]:
    """Let jsonargparse import nothing but the allowed packages, loaded plug-ins and known classes while this lasts.

    It imports what a text in any class-typed place names, before it looks whether the type fits. ``foreign_classes``
    sees most of them earlier and says where they stand; this leaves no other way.

    Args:
        known: Classes that have been imported already and may be named.
    """
    from jsonargparse import _common as common  # its public setting can be set once for a process, and not taken back

    if is_trusting():
        yield
        return
    plugins = [name for name in sys.modules if name.startswith(PLUGIN)]
    allowed = [*ALLOWED, RE_EXPORTED, *plugins, *(f"{one.__module__}.{one.__qualname__}" for one in known)]
    settings = common.parsing_settings
    kept = {name: settings[name] for name in ("import_path_verdicts", "import_paths_enforced")}
    settings["import_path_verdicts"] = {"*": False} | dict.fromkeys(allowed, True)
    settings["import_paths_enforced"] = True
    try:
        yield
    finally:
        settings.update(kept)


def foreign_classes(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key and the path of every class outside the allowed packages that a configuration names.

    Args:
        content: The configuration as it was read, nothing of it imported.
        key: The dotted key at which it stands.

    Example:
        >>> list(foreign_classes({"model": {"head": {"class_path": "mine.Head"}}, "trainer": {"callbacks": ["a.B"]}}))
        [('model.head.class_path', 'mine.Head'), ('trainer.callbacks', 'a.B')]
    """
    if isinstance(content, dict):
        for name, value in content.items():
            inner = f"{key}.{name}" if key else str(name)
            if str(name).rpartition(".")[2] in GADGETS:
                yield inner, str(value)
            else:
                yield from foreign_classes(value, inner)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from foreign_classes(value, key)
    elif isinstance(content, str) and _SLOTS.match(key):
        named = key.endswith("class_path")  # elsewhere in a slot a text may be a file's name
        dotted = _PATH.fullmatch(content) and not _FILE_END.fullmatch(content)
        if (named or dotted) and not is_allowed(content):
            yield key, content


def refuse_foreign(content: Any, where: str) -> None:
    """Refuse a configuration that names a class outside the allowed packages, unless it is trusted.

    Args:
        content: The configuration as it was read.
        where: What it was read from.

    Raises:
        ModelError: It does.
    """
    if is_trusting():
        return
    for key, path in foreign_classes(content):
        if not path.startswith(PLUGIN):  # of a plug-in that is not loaded, parsing says which file is missing
            raise foreign(path, f"{key} of {where}")


DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
"""How jsonargparse says that it did not import something."""


def foreign(path: str, where: str) -> ModelError:
    """Return the fault of a class that is not imported."""
    module, _, name = path.rpartition(".")
    if f"{PLUGIN}{module}" in sys.modules:
        return ModelError(
            f"expected the name of a class alone but got {path!r} ({where}). "
            f"Hint: {name}; its plug-in file is loaded, and the module of that name is another."
        )
    return ModelError(
        f"expected classes of {', '.join(ALLOWED)} or of files given with --plugins but got {path!r}, which is not "
        f"imported ({where}). Hint: python -m moe_tune --trust VERB ... if you trust who wrote it; from Python "
        "`with trusting():` of moe_tune.base.trusted."
    )
