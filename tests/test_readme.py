"""What the README says can be done, can be done."""

import re
import shlex

import pytest

from tests.smoke import ROOT, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    part.strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    for part in line.split("&&")
]


@pytest.mark.parametrize("script", ["train.py", "search.py"])
def test_every_option_of_the_readme_exists(script: str) -> None:
    used = {
        word.split("=")[0]
        for command in COMMANDS
        if command.startswith(f"python {script}")
        for word in shlex.split(command)
        if word.startswith("--")
    }
    used |= set(re.findall(rf"`{script} (--[\w-]+)", README))
    shown = run(script, "--help").stdout
    missing = {option for option in used if option not in shown}
    assert used
    assert not missing


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
    for room in ("base", "kd", "supernet", "export"):
        for path in (ROOT / room).rglob("*.py"):
            assert path.name == "__init__.py" or path.name in README, path


def test_every_case_of_bad_input_has_its_test() -> None:
    table = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]*test_\w+\.py)::(test_\w+)` \|$", table, re.MULTILINE)
    rows = [line for line in table.splitlines() if line.startswith("| ") and "what is" not in line]
    assert len(named) == len(rows) >= 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_pictures_are_there() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 10_000, path
