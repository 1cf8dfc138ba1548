"""The rooms of the package stand in one order: every file is ranked, and no import of any kind goes up."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ("heads", "losses", "metrics", "criteria")
ORDER = (
    ("base",),
    ("routing",),
    ("stats",),
    PLUGINS,
    ("reports",),
    ("data", "models"),
    ("gates",),
    ("answer_path", "runs"),
    ("tuner",),
    ("callbacks", "tracking", "recorder"),
    ("settings",),
    ("compare", "analysis", "planning", "export"),
    ("studies", "generation", "harness", "interventions", "pruning"),
    ("faults",),
    ("cli",),
    ("__init__", "__main__"),
)
"""A room imports from those above it and from itself; rooms of one line do not know each other."""
RANK = {room: index for index, rooms in enumerate(ORDER) for room in rooms}
HARMLESS = (
    *("transformers.utils.", "transformers.DynamicCache", "transformers.Attention", "transformers.PreTrained"),
    *("transformers.GenerationConfig", "transformers.modeling_outputs.", "transformers.Train"),
)
"""What the rest of the package may use of transformers: settings, interfaces and types, never a model."""


def module_name(file, root=ROOT):
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(root=ROOT):
    return sorted((root / "moe_tune").rglob("*.py"))


def imports(file, root=ROOT):
    """Yield what a file imports, wherever in it and for whatever purpose: in functions and for type checking, too."""
    package = module_name(file, root).split(".")
    package = package if file.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, [base, node.module]))
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def room_of(name):
    """Return the room a module belongs to, such as ``heads``; ``None`` outside the package."""
    pieces = name.split(".")
    if pieces[0] != "moe_tune":
        return None
    return pieces[1] if len(pieces) > 1 else "__init__"


def upward(root=ROOT):
    """Return every import that goes up or across, as ``file imports name``."""
    found = []
    for file in files(root):
        own = room_of(module_name(file, root))
        for name in imports(file, root):
            other = room_of(name)
            if other is None or own == "__init__" or (other not in RANK and name.count(".") == 1):
                continue  # a name of the package's face, such as its version
            if other != own and RANK.get(other, len(ORDER)) >= RANK[own]:
                found.append(f"{module_name(file, root)} imports {name}")
    return found


def circles(root=ROOT):
    """Return the modules that import one another in a circle, as groups."""
    known = {module_name(file, root): file for file in files(root)}
    graph = {}
    for name, file in known.items():
        targets = set()
        for target in imports(file, root):
            while target and target not in known:
                target = target.rpartition(".")[0]
            targets |= {target} - {name, "", "moe_tune"}
        graph[name] = targets
    reach = {}
    for start in graph:
        seen, queue = set(), [*graph[start]]
        while queue:
            if (one := queue.pop()) not in seen:
                seen.add(one)
                queue += graph[one]
        reach[start] = seen
    return {frozenset(b for b in reach[a] if a in reach[b]) for a in reach if a in reach[a]}


def test_every_file_is_in_a_room():
    unknown = [module_name(file) for file in files() if room_of(module_name(file)) not in RANK]
    assert unknown == []
    assert sorted(file.name for file in (ROOT / "moe_tune").glob("*.py")) == ["__init__.py", "__main__.py"]


def test_no_import_goes_up():
    assert upward() == []


def test_no_file_imports_in_a_circle(capsys):
    found = circles()
    with capsys.disabled():
        print(f"\ncircles: {len(found)}")
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "from moe_tune.gates.session import Session",
        "import moe_tune.gates.session",
        "def f():\n    from moe_tune.gates import session",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from moe_tune.gates.session import Session",
        "from ..gates import session",
        "from moe_tune.losses.base import AuxLoss",
        "import importlib\nimportlib.import_module('moe_tune.gates.session')",
    ],
)
def test_a_planted_upward_import_is_found(line, tmp_path):
    file = tmp_path / "moe_tune" / "heads" / "one.py"
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n", encoding="utf-8")
    assert len(upward(tmp_path)) == 1


def test_a_planted_circle_is_found(tmp_path):
    folder = tmp_path / "moe_tune" / "heads"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from moe_tune.heads.two import a\n", encoding="utf-8")
    (folder / "two.py").write_text("def f():\n    import moe_tune.heads.one\n", encoding="utf-8")
    assert circles(tmp_path) == {frozenset({"moe_tune.heads.one", "moe_tune.heads.two"})}


@pytest.mark.parametrize("room", ["base", "routing", "stats", *PLUGINS])
def test_plug_ins_know_no_framework(room):
    allowed = {"huggingface_hub"} if room == "base" else set()
    for file in (ROOT / "moe_tune" / room).rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(file)}
        assert not roots & ({"lightning", "wandb", "transformers", "peft", "datasets"} - allowed), file.name


def test_only_models_knows_the_models_of_transformers():
    for file in files():
        if room_of(module_name(file)) != "models":
            foreign = [name for name in imports(file) if name.split(".")[0] in ("transformers", "peft")]
            assert [name for name in foreign if not name.startswith(HARMLESS)] == [], file.name


def test_class_names_are_unique():
    names = Counter(
        node.name
        for file in files()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
