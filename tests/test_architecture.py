"""The house keeps its rooms: which module may import which, and how large one may grow."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "vitjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room may import itself, what stands here, and the leaves, which know nothing of vitjax.
LEAVES = {"lookup", "whole"}
ALLOWED = {
    "lookup": set(),
    "whole": set(),
    "ops": set(),
    "sharding": set(),
    "data": set(),
    "config": {"lookup"},
    "optim": set(),
    "models": {"ops"},
    "objectives": {"models", "ops"},
    "evaluators": {"models", "ops", "sharding"},
    "checkpoint": {"sharding"},
    "interop": {"models", "checkpoint", "objectives", "ops"},
    "train": {
        *("objectives", "evaluators", "optim", "checkpoint", "models", "ops", "sharding", "data"),
        "config",
    },
    "pictures": {"evaluators", "ops"},
    "plan": {"train", "sharding", "config"},
    "study": {"train", "config", "pictures", "data", "sharding"},
    "verbs": {
        "train",
        "evaluators",
        "pictures",
        "plan",
        "study",
        "config",
        "ops",
        "interop",
        "data",
    },
    "main": {"train", "config"},
    "__main__": {"main", "verbs", "config"},
}
# Packages that only some rooms may import.
ONLY = {
    "flax": {"models"},
    "clu": {"train"},
    "ml_collections": {"main"},
    "orbax": {"checkpoint"},
    "matplotlib": {"train", "pictures", "study"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "tensorflow": set(),
    "safetensors": {"interop"},
    "torch": {"interop"},  # inside a function, to read the files that nothing else reads
}


def room(file: pathlib.Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: pathlib.Path) -> set[str]:
    """Dotted names that a file imports; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            names |= {node.args[0].value}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    here = room(file)
    for name in imports(file):
        package, _, rest = name.partition(".")
        if package == "vitjax" and here != "__init__":
            other = rest.split(".")[0]
            assert other in ALLOWED[here] | LEAVES | {here, ""}, f"{here} imports {name}"
        if package in ONLY:
            assert here in ONLY[package], f"{here} imports {name}"
        if here == "data":
            assert package != "jax", f"data imports {name}"


def test_every_room_is_on_the_map():
    assert {room(file) for file in FILES} - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_module_is_two(file):
    lines = len(file.read_text().splitlines())
    assert lines <= (80 if file == PACKAGE / "train" / "step.py" else 400)


def test_no_name_says_nothing():
    empty = {"utils", "util", "misc", "base", "common", "helpers"}
    assert not {file.stem for file in FILES} & empty
