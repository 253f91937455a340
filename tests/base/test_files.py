"""A file is there whole, or as it was before; a damaged one is named in one line."""

import copy
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from base.errors import UserError
from base.files import (
    UNFINISHED,
    first_difference,
    read_json,
    remove_unfinished,
    write_atomic,
    write_json,
)
from base.tensor_files import read_tensors, write_tensors


def test_write_whole_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "students" / "20ms" / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", [(os, "fsync"), (Path, "replace")], ids=["fsync", "rename"])
@pytest.mark.parametrize(
    ("interruption", "raised"),
    [(OSError(errno.ENOSPC, "disk full"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["disk full", "Ctrl-C"],
)
def test_an_interrupted_write_leaves_the_old_file_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: tuple[object, str],
    interruption: BaseException,
    raised: type[BaseException],
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(*step, fail)
        with pytest.raises(raised) as caught:
            write_atomic(path, b"new")
    if raised is UserError:
        assert str(caught.value).startswith(f"{path}: cannot be written (disk full); make room")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_limit_on_files_is_one_line_and_the_old_file_stays(tmp_path: Path) -> None:
    """A real refusal of the system, in a process of its own."""
    path = tmp_path / "weights"
    write_atomic(path, b"old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    write = f"write_atomic(Path({str(path)!r}), bytes(10_000))"
    code = f"from tests.base.test_files import *; {limit}{write}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        f"UserError: {path}: cannot be written (File too large); make room there, make it "
        "writable, or name another place"
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / "a.json", tmp_path / ".lock", tmp_path / "checkpoint" / "w.pt"]
    left = [tmp_path / f".a.json.x{UNFINISHED}", tmp_path / "checkpoint" / f".w.pt.y{UNFINISHED}"]
    for path in kept + left:
        write_atomic(path, b"content")
    remove_unfinished(tmp_path)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)


def test_a_writer_that_is_killed_leaves_the_old_file_and_what_is_removed_later(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    code = (
        "import os; from tests.base.test_files import *; "
        "os.fsync = lambda _: os.kill(os.getpid(), 9); "
        f"write_atomic(Path({str(path)!r}), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644)])
def test_the_users_umask_says_who_may_read_a_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "new" / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "a.json").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("lacking", ["fsync", "chmod", "fchmod"])
def test_what_a_file_system_lacks_keeps_no_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Some mounts do not let modes be changed, or do not know when anything is on disk."""
    number = errno.EINVAL if lacking == "fsync" else errno.EPERM

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, lacking, refuse)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "é": {"b": "×"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"loss": 1.0}


def test_tensor_files_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    metadata = {name: name for name in "abcdefgh"}
    for index in range(8):
        write_tensors(tmp_path / str(index), {"x": torch.ones(2)}, metadata)
    assert len({(tmp_path / str(index)).read_bytes() for index in range(8)}) == 1


def test_tensors_round_trip_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written = {"w": torch.randn(3, 4).T, "half": torch.randn(5).bfloat16(), "n": torch.tensor(7)}
    write_tensors(path, written, {"preset": "digits"})
    tensors, metadata = read_tensors(path)
    assert metadata == {"preset": "digits"}
    assert tensors.keys() == written.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == written[name].dtype
        assert torch.equal(tensor, written[name])


@pytest.mark.parametrize("read", [read_json, read_tensors])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_readers_refuse_damaged_files_in_one_line(
    tmp_path: Path, read: Callable[[Path], object], damage: str
) -> None:
    path = tmp_path / "file"
    if read is read_json:
        write_json(path, {"a": 1, "b": 2})
    else:
        write_tensors(path, {"w": torch.randn(8)}, {})
    whole = path.read_bytes()
    assert read(path)
    contents = {"empty": b"", "truncated": whole[:-5], "foreign": b"\x80\x04pickled\x00\xff" * 9}
    path.unlink()
    if damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(UserError) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", range(0, 1000, 37))
def test_a_turned_bit_in_the_tensors_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"w": torch.randn(256), "n": torch.tensor(3)}, {"name": "a"})
    whole = bytearray(path.read_bytes())
    whole[len(whole) - 1 - place] ^= 1 << place % 8
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"w\.safetensors: "):
        read_tensors(path)


def test_files_of_others_have_no_hash_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert torch.equal(read_tensors(path)[0]["w"], torch.ones(2))


def test_tensors_lie_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"run\xff") / "w.safetensors"
    write_tensors(path, {"a": torch.arange(3.0)}, {"name": path.parent.name})
    tensors, facts = read_tensors(path)
    assert tensors["a"].tolist() == [0, 1, 2]
    assert facts == {"name": path.parent.name}


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="expected a JSON object"):
        read_json(path)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_with_what_is_no_number_is_refused(tmp_path: Path, constant: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"ms": {constant}}}')
    with pytest.raises(UserError, match=rf"a\.json: .*{constant} is no number"):
        read_json(path)


def test_json_on_one_line_says_the_same(tmp_path: Path) -> None:
    value = {"a": [1, {"b": None}], "c": "d"}
    write_json(tmp_path / "long.json", value)
    write_json(tmp_path / "short.json", value, indent=None)
    assert read_json(tmp_path / "short.json") == read_json(tmp_path / "long.json") == value
    assert (tmp_path / "short.json").read_text().count("\n") == 1
    assert (tmp_path / "long.json").read_text().count("\n") > 1


PLAN = {
    "space": "tiny",
    "stages": [{"widths": [16, 24], "se": False}, {"widths": (32,), "se": True}],
    "unit": {"batch": 8, "provider": None},
}
DIFFERENCES = [
    ("space", "large", "space 'large', expected 'tiny'"),
    ("stages.0.widths.1", 32, "stages.0.widths.1 32, expected 24"),
    ("stages.0.widths", [16], "stages.0.widths [16], expected [16, 24]"),
    ("stages.1.widths", [], "stages.1.widths [], expected [32]"),
    ("stages.1.se", "yes", "stages.1.se 'yes', expected True"),
    ("stages.0", 7, "stages.0 7, expected {'widths': [16, 24], 'se': False}"),
    ("unit.batch", None, "unit.batch None, expected 8"),
    ("unit.provider", "CPU", "unit.provider 'CPU', expected None"),
    ("unit.colour", "red", "unit.colour 'red', expected None"),
    ("unit", [8, None], "unit [8, None], expected {'batch': 8, 'provider': None}"),
]


def changed(*changes: tuple[str, object]) -> dict:
    """A copy of the plan with other values at dotted places."""
    other = copy.deepcopy(PLAN)
    for place, value in changes:
        *way, last = (int(step) if step.isdigit() else step for step in place.split("."))
        inside = other
        for step in way:
            inside = inside[step]
        inside[last] = value
    return other


@pytest.mark.parametrize(("place", "value", "text"), DIFFERENCES)
def test_a_difference_is_named_by_its_place(place: str, value: object, text: str) -> None:
    assert first_difference(changed((place, value)), PLAN) == text


def test_equal_values_have_no_difference() -> None:
    assert first_difference(PLAN, copy.deepcopy(PLAN)) is None
    assert first_difference(changed(("stages.1.widths", [32])), PLAN) is None
    assert first_difference([], ()) is first_difference({}, {}) is None


def test_the_first_of_several_differences_is_named_in_the_expected_order() -> None:
    other = changed(("unit.batch", 1), ("stages.1.se", False), ("stages.0.se", True))
    assert (
        first_difference(dict(reversed(other.items())), PLAN) == "stages.0.se True, expected False"
    )


def test_a_field_that_is_missing_is_named() -> None:
    other = changed()
    del other["unit"]["batch"]
    assert first_difference(other, PLAN) == "unit.batch None, expected 8"
