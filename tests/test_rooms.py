"""Rooms and doors: which package may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "base": {"base"},
    "export": {"export", "base"},
    "kd": {"kd", "export", "base"},
    "supernet": {"supernet", "export", "base"},
}
OURS = {"base", "kd", "supernet", "export", "train", "search", "tests", "benchmarks"}
MODULES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_to_its_room(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    foreign = {name.split(".")[0] for name in imports(path)} & OURS - ALLOWED[room]
    assert not foreign, f"{path.name} imports {foreign}"


def test_no_cycles() -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imports(path) for path in MODULES
    }
    settled: set[str] = set()
    while ready := {
        m for m in graph if m not in settled and not (graph[m] & graph.keys()) - settled
    }:
        settled |= ready
    assert settled == graph.keys(), f"cycle among {graph.keys() - settled}"


def test_files_stay_short_and_shadow_nothing() -> None:
    for path in [*MODULES, ROOT / "train.py", ROOT / "search.py"]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
        assert path.stem not in {"onnx", "profile", "types", "copy", "random", "torch", "io"}, path


def test_nothing_mentions_what_the_project_does_not_own() -> None:
    """Benchmarks may read shared data; the product must not need it."""
    for path in [*MODULES, ROOT / "train.py", ROOT / "search.py"]:
        assert "shared/data" not in path.read_text(encoding="utf-8"), path
