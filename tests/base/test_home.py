"""A user without a home: caches have a place all the same, and it is nobody else's."""

import os
from pathlib import Path

import pytest

from base.files import settle_home


@pytest.mark.parametrize("home", [None, "/nowhere/at/all", "/dev/null"])
def test_a_user_without_a_home_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None, capsys: pytest.CaptureFixture
) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    settle_home()
    own = tmp_path / f"oyster-{os.getuid()}"
    assert Path.home() == own
    assert own.stat().st_mode & 0o777 == 0o700
    assert f"go to {own}; HOME" in capsys.readouterr().err
    settle_home()
    assert capsys.readouterr().err == ""


def test_a_folder_that_others_can_write_to_is_nobodys_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/nowhere")
    (tmp_path / f"oyster-{os.getuid()}").mkdir()
    (tmp_path / f"oyster-{os.getuid()}").chmod(0o777)
    settle_home()
    assert Path.home().parent == tmp_path
    assert Path.home().stat().st_mode & 0o777 == 0o700
