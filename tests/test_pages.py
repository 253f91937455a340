"""What both scripts leave for a person to look at, as a whole."""

import json
import re
import shutil
from pathlib import Path
from subprocess import CompletedProcess

from tests.smoke import QUICK_SEARCH, run


def test_pages_lead_to_each_other(searched: tuple[Path, float, CompletedProcess]) -> None:
    folder, _, _ = searched
    for page, links in [
        (folder.parent / "report.html", [f"{folder.name}/report.html", "../report.html"]),
        (folder / "report.html", ["../report.html"]),
    ]:
        assert re.findall('href="([^"]*)"', page.read_text()) == links
        assert all((page.parent / link).is_file() for link in links)


def test_what_each_phase_took_is_said(
    trained: tuple[Path, str], searched: tuple[Path, float, CompletedProcess]
) -> None:
    _, printed = trained
    for phase in ("teacher", "outputs", "latency table", "w", "alpha", "survey", "all"):
        assert re.search(rf"^time: {phase} +[\d,]+ s, [\d,]+ s predicted$", printed, re.MULTILINE)
    facts = json.loads((searched[0] / "metrics.json").read_text())
    assert 0 < facts["timing_seconds"] < facts["search_seconds"]


def test_a_damaged_student_does_not_stop_the_search_for_another(
    trained: tuple[Path, str], searched: tuple[Path, float, CompletedProcess], tmp_path: Path
) -> None:
    """It is said, and at the end it is an error; what was found is kept and printed before."""
    folder, ms = shutil.copytree(trained[0], tmp_path / "run"), searched[1]
    (folder / "students" / "damaged").mkdir(parents=True)
    (folder / "students" / "damaged" / "metrics.json").write_text("{")
    budgets = (ms, 1.3 * ms)
    done = run("search.py", "--run", folder, "--target-latency", *budgets, *QUICK_SEARCH)
    assert done.returncode == 2
    assert "damaged" in done.stderr.splitlines()[-1]
    assert done.stdout.count("ONNX parity   passed") == 2
    for budget in budgets:
        assert (folder / "students" / f"{budget:g}ms" / "report.html").is_file()
    assert not list((folder / "checkpoint").glob("*"))
