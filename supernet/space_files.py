"""Search spaces in files: JSON beside tables and supernets, and TOML of the user's own."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from base.errors import UserError
from base.files import write_atomic
from base.size import parse_size
from supernet.presets import Preset, preset
from supernet.space import OperationSpace, SearchSpace, StageSpace

# In a run's folder, what --space named.
KEPT = "space.toml"


def _ascending(choices: list) -> list:
    if choices != sorted(set(choices)):
        raise ValueError(f"{choices} do not ascend, each once")
    return choices


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"{kernel} is even, and has no middle")
    return kernel


def _once_each(operations: list) -> list:
    names = [operation.name for operation in operations]
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: one operation twice")
    return operations


Count = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], Field(min_length=1), AfterValidator(_ascending)]


class _Table(BaseModel):
    """A table of the file: no other fields, and no other types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OperationTable(_Table):
    """The forms of an operation, as `OperationSpace`."""

    name: Literal["mbconv", "fused"]
    kernels: Annotated[
        list[Annotated[Count, AfterValidator(_odd)]],
        Field(min_length=1),
        AfterValidator(_ascending),
    ]
    expansions: Counts
    squeeze_excite: Annotated[list[bool], Field(min_length=1), AfterValidator(_ascending)]

    def build(self) -> OperationSpace:
        """Return it as the space has it."""
        forms = (self.kernels, self.expansions, self.squeeze_excite)
        return OperationSpace(self.name, *map(tuple, forms))


class StageTable(_Table):
    """What can be chosen in a stage, as `StageSpace`."""

    stride: Count
    widths: Counts
    depths: Counts
    operations: Annotated[list[OperationTable], Field(min_length=1), AfterValidator(_once_each)]

    def build(self) -> StageSpace:
        """Return it as the space has it."""
        operations = tuple(operation.build() for operation in self.operations)
        return StageSpace(self.stride, tuple(self.widths), tuple(self.depths), operations)


class SpaceTable(_Table):
    """A whole file, as `Preset` but for the name."""

    resolution: Annotated[str, BeforeValidator(str)]
    stem_stride: Count
    stem_widths: Counts
    head_widths: Annotated[
        list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_ascending)
    ]
    stages: Annotated[list[StageTable], Field(min_length=1)]


class SpaceFields(SpaceTable):
    """All fields of a `SearchSpace`."""

    name: str
    resolution: Annotated[list[Count], Field(min_length=2, max_length=2)]
    classes: Count
    channels: Count
    unit_length: bool = False


def read_space_file(path: Path) -> Preset:
    """Read a space of the user's own; the first mistake in it raises `UserError`."""
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: no TOML ({error}); see docs/spaces.md") from error
    try:
        found = SpaceTable.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_mistake(error)}; see docs/spaces.md") from error
    stages = tuple(stage.build() for stage in found.stages)
    widths = tuple(found.stem_widths), stages, tuple(found.head_widths)
    own = Preset(path.stem, parse_size(found.resolution), found.stem_stride, *widths)
    own.size()
    return own


def space_from_json(value: object) -> SearchSpace:
    """Build a space from the plain form of all fields; raise `UserError` when one is amiss."""
    try:
        found = SpaceFields.model_validate(value)
    except ValidationError as error:
        raise UserError(f"not a search space: {_first_mistake(error)}") from error
    height, width = found.resolution
    stages = tuple(stage.build() for stage in found.stages)
    widths = tuple(found.stem_widths), stages, tuple(found.head_widths)
    fields = (found.name, (height, width), found.classes, found.stem_stride, *widths)
    return SearchSpace(*fields, found.channels, found.unit_length)


def _first_mistake(error: ValidationError) -> str:
    """Say in one line where the first mistake is, and what."""
    # A field of another name is missing, too: what it is called tells more.
    found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = found[0]
    *inside, last = first["loc"] or ("file",)
    place = _place(first["loc"])
    match first["type"]:
        case "missing":
            return f"{_place(inside) or 'it'} lacks {last}"
        case "extra_forbidden":
            close = difflib.get_close_matches(str(last), _fields(inside), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            return f"{place}: unknown field{hint}"
        case "too_short":
            return f"{place}: empty, expected one or more"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    expected = "" if first["type"] == "value_error" else "expected "
    return f"{place}: {expected}{reason}"


def _place(where: Sequence[str | int]) -> str:
    """Say a path with places counted from 1, such as stages.2.widths."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in where)


def _fields(inside: Sequence[str | int]) -> list[str]:
    tables: Mapping[str, type[_Table]] = {"stages": StageTable, "operations": OperationTable}
    named = [part for part in inside if part in tables]
    return list((tables[named[-1]] if named else SpaceTable).model_fields)


def given_preset(name: str, path: Path | None) -> Preset:
    """Return the space of a file, or the preset called `name` where there is none."""
    return preset(name) if path is None else read_space_file(path)


def keep_space_file(path: Path | None, run: Path) -> None:
    """Keep a copy of the file in the run's folder.

    Raises `UserError` where the run was begun with another content.
    """
    if path is None:
        return
    content, kept = path.read_bytes(), run / KEPT
    if not kept.exists():
        write_atomic(kept, content)
    elif kept.read_bytes() != content:
        raise UserError(f"{run}: begun with another {path}; {kept} has it; give another --run")


def run_preset(name: str, path: Path | None, run: Path) -> Preset:
    """Return what `given_preset` was for a run: it has its own copy of the file."""
    return preset(name) if path is None else replace(read_space_file(run / KEPT), name=path.stem)
