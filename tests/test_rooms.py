"""Rooms and doors: which folder may import which, and how large a room or a file may grow."""

import ast
from pathlib import Path

import pytest

from tests.smoke import ROOT

# Every room, and the rooms that its files may import; each stands above all of those.
ALLOWED = {
    "base": set(),
    "export/timing": {"base"},
    "export/int8": {"base"},
    "export/runtimes": {"base", "export/int8", "export/timing"},
    "export": {"base", "export/runtimes", "export/timing"},
    "export/report": {"base"},
    "kd/layout": {"base"},
    "kd/images": {"base", "kd/layout"},
    "kd": {"base", "kd/images"},
    "kd/teacher": {"base", "export/runtimes", "kd/images", "kd"},
    "kd/run": {"base", "export/timing", "kd/images", "kd", "kd/teacher"},
    "kd/student": {
        *("base", "export", "export/int8", "export/timing"),
        *("kd", "kd/images", "kd/run"),
    },
    "kd/rivals": {"base", "export", "export/timing", "kd", "kd/student"},
    "supernet": {"base", "export/timing"},
    "supernet/latency": {
        *("base", "export", "export/int8", "export/runtimes", "export/timing"),
        "supernet",
    },
    "supernet/choice": {
        *("base", "export", "export/runtimes", "export/timing"),
        *("supernet", "supernet/latency"),
    },
    "supernet/training": {
        "base",
        "export/runtimes",
        "export/timing",
        "supernet",
        "supernet/latency",
        "supernet/choice",
    },
}
TOPS = sorted({room.split("/")[0] for room in ALLOWED})
OURS = {*TOPS, "train", "search", "tests", "benchmarks"}
MODULES = [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]
SCRIPTS = [ROOT / "train.py", ROOT / "search.py"]
MOST_FILES, MOST_LINES = 12, 300


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


def room_of(path: Path) -> str:
    return str(path.relative_to(ROOT).parent)


def room_of_module(name: str) -> str:
    """The room of a dotted name: a file's folder, or the package itself."""
    path = ROOT / name.replace(".", "/")
    return str((path if path.is_dir() else path.parent).relative_to(ROOT))


def test_every_folder_is_a_room() -> None:
    assert {room_of(path) for path in MODULES} == ALLOWED.keys()


def test_doors_lead_down_only() -> None:
    """No circle of rooms: those that import nobody, then those that import only them, …"""
    settled: set[str] = set()
    while ready := {room for room in ALLOWED.keys() - settled if ALLOWED[room] <= settled}:
        settled |= ready
    assert settled == ALLOWED.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_to_its_room(path: Path) -> None:
    own = {name for name in imports(path) if name.split(".")[0] in OURS}
    foreign = {name for name in own if name.split(".")[0] not in TOPS}
    assert not foreign, f"{path.name} imports {foreign}"
    rooms = {room_of_module(name) for name in own} - {room_of(path)}
    assert rooms <= ALLOWED[room_of(path)], f"{path.name} imports {rooms}"


def test_every_door_is_used() -> None:
    """What nobody needs is not allowed either."""
    for room, doors in ALLOWED.items():
        files = [path for path in MODULES if room_of(path) == room]
        names = {name for path in files for name in imports(path) if name.split(".")[0] in TOPS}
        assert doors == {room_of_module(name) for name in names} - {room}, room


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


def test_no_room_is_crowded() -> None:
    for room in ALLOWED:
        files = [path.name for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{room} has {len(files)} files; give it sub-rooms"


def test_files_stay_short_and_shadow_nothing() -> None:
    for path in [*MODULES, *SCRIPTS]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path
        assert path.stem not in {"onnx", "profile", "types", "copy", "random", "torch", "io"}, path


def test_nothing_mentions_what_the_project_does_not_own() -> None:
    """Benchmarks may read shared data; the product must not need it."""
    for path in [*MODULES, *SCRIPTS]:
        assert "shared/data" not in path.read_text(encoding="utf-8"), path


def test_tests_are_laid_out_as_the_code_is() -> None:
    """Beside those of whole scripts, each stands in the folder of the room that it tests."""
    tests = ROOT / "tests"
    for path in tests.rglob("test_*.py"):
        assert path.parent == tests or room_of(path).removeprefix("tests/") in ALLOWED, path
