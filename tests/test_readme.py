"""What the README and the guides say can be done, can be done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from supernet.choice.student_file import load_student
from tests.smoke import ROOT, environment, run

MOST_LINES = 180
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
COMMANDS = [
    part.strip()
    for text in GUIDES.values()
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    for part in line.partition("#")[0].split("&&")
]


@pytest.mark.parametrize("script", ["train.py", "search.py"])
def test_every_option_that_is_named_exists(script: str) -> None:
    used = {
        word.split("=")[0]
        for command in COMMANDS
        if script in command
        for word in shlex.split(command.partition(script)[2])
        if word.startswith("--")
    }
    for text in GUIDES.values():
        used |= set(re.findall(rf"`{script} (--[\w-]+)", text))
    shown = run(script, "--help").stdout
    missing = {option for option in used if option not in shown}
    assert used
    assert not missing


def test_the_readmes_python_names_the_class_of_a_photograph(
    searched: tuple[Path, float, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    """As it is written, but for the student's folder."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    own = searched[0]
    (known,) = re.findall(r'load_student\("(.*?)"\)', code)
    Image.new("L", (40, 30), 200).save(tmp_path / "photo.jpg")
    path = {**environment(), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", code.replace(known, str(own))],
        cwd=tmp_path,
        env=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.strip() in load_student(own).classes, told.stderr


def test_modules_that_the_readme_runs_exist() -> None:
    modules = [command.split()[2] for command in COMMANDS if command.startswith("python -m ")]
    assert "pytest" in modules
    for module in set(modules) - {"pytest", "venv"}:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_ci_runs_the_readmes_test_command() -> None:
    test_command = next(command for command in COMMANDS if "pytest" in command)
    assert test_command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_tree_names_every_file() -> None:
    tree = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    for room in ("base", "kd", "supernet", "export"):
        for path in (ROOT / room).rglob("*.py"):
            assert path.name == "__init__.py" or path.name in tree, path


def test_every_case_of_bad_input_has_its_test() -> None:
    table = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]*test_\w+\.py)::(test_\w+)` \|$", table, re.MULTILINE)
    rows = [line for line in table.splitlines() if line.startswith("| ") and "what is" not in line]
    assert len(named) == len(rows) >= 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_the_readme_is_short_and_leads_to_every_guide() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    for path in GUIDES:
        assert path.name == "README.md" or f"](docs/{path.name})" in README, path


def test_links_lead_somewhere() -> None:
    """To files that are there, and to headings in them as GitHub names these; pictures too."""
    for path, text in GUIDES.items():
        for picture, link in re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", text):
            if link.startswith("https://"):
                continue
            place, _, heading = link.partition("#")
            target = path.parent / place if place else path
            assert target.exists(), f"{path}: {link}"
            assert not picture or target.stat().st_size > 10_000, link
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                named = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
                assert heading in named, f"{path}: {link}"
