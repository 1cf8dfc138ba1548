"""Imports go one way, plug-in folders know neither each other nor the frameworks, and class names are unique."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "moe_tune").rglob("*.py"))
PLUGINS = ("heads", "losses", "metrics")
ORDER = (
    ("routing",),
    PLUGINS,
    ("evidence",),
    ("gate",),
    ("answer_path",),
    ("module",),
    ("callbacks", "compare", "analysis", "interventions", "hub"),
    ("cli",),
)
"""Each part may import those before it, and itself; parts beside each other may not import one another."""

HARMLESS = ("transformers.utils.", "transformers.DynamicCache", "transformers.Attention")
"""What the rest of the package may use of transformers: settings and interfaces, never a model."""


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file):
    """Yield the modules a file imports at run time, wherever in it; blocks for type checking are left out."""
    package = module_name(file).split(".") if file.name == "__init__.py" else module_name(file).split(".")[:-1]
    queue = [ast.parse(file.read_text(encoding="utf-8"))]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, [base, node.module]))
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        queue += ast.iter_child_nodes(node)


def part_of(name):
    """Return the part of the package a module belongs to, such as ``heads``."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "moe_tune" and len(pieces) > 1 else None


each_file = pytest.mark.parametrize("file", FILES, ids=map(module_name, FILES))


@each_file
def test_imports_go_one_way(file):
    rank = {part: index for index, parts in enumerate(ORDER) for part in parts}
    own = part_of(module_name(file))
    if own not in rank:
        return
    for name in imports(file):
        other = part_of(name)
        allowed = other == own or rank.get(other, -1) < rank[own]
        assert allowed, f"{module_name(file)} imports {name}"


@each_file
def test_plug_ins_know_no_framework(file):
    if part_of(module_name(file)) in (*PLUGINS, "routing", "schedule", "plugins", "errors"):
        roots = {name.split(".")[0] for name in imports(file)}
        assert not roots & {"lightning", "wandb", "transformers", "peft", "datasets"}


@each_file
def test_only_models_knows_transformers(file):
    if part_of(module_name(file)) != "models":
        foreign = [name for name in imports(file) if name.split(".")[0] in ("transformers", "peft")]
        assert [name for name in foreign if not name.startswith(HARMLESS)] == []


def test_class_names_are_unique():
    names = Counter(
        node.name
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_walk_sees_imports_inside_functions_and_not_those_for_type_checking(tmp_path, monkeypatch):
    monkeypatch.setattr("test_imports.ROOT", tmp_path)
    file = tmp_path / "moe_tune" / "heads" / "one.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wandb\n"
        "def f():\n    from ..gate import TunedGate\n"
    )
    assert set(imports(file)) == {"typing.TYPE_CHECKING", "moe_tune.gates.gated_model.TunedGate"}
