"""A search space from its plain form: what tables and supernets keep beside themselves."""

from collections.abc import Mapping

from base.errors import UserError
from supernet.space import OPERATIONS, Decision, OperationSpace, SearchSpace, StageSpace


def space_from_json(value: object) -> SearchSpace:
    """Build a space from the plain form of all fields; raise `UserError` when one is amiss."""
    try:
        fields = {name: _tupled(part) for name, part in dict(value).items()}
        stages = tuple(map(_stage, fields.pop("stages")))
        space = SearchSpace(**fields, stages=stages)
        height, width = space.resolution
        sizes = [height, width, space.channels, space.classes, space.stem_stride]
        sizes += [stage.stride for stage in stages]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes} are not all whole numbers above 0")
        for decision in space.decisions():
            if not (decision.choices and all(_is_choice(decision, c) for c in decision.choices)):
                raise ValueError(f"{decision.name}: {decision.choices}")
        return space
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"not a search space ({error}); expected its fields") from error


def _is_choice(decision: Decision, choice: object) -> bool:
    if decision.name.endswith(".operation"):
        return choice in OPERATIONS
    if decision.name.endswith(".squeeze_excite"):
        return type(choice) is bool
    return type(choice) is int and choice >= (0 if decision.name == "head.width" else 1)


def _stage(value: Mapping) -> StageSpace:
    fields = {name: _tupled(part) for name, part in value.items()}
    operations = (
        OperationSpace(**{name: _tupled(part) for name, part in operation.items()})
        for operation in fields.pop("operations")
    )
    return StageSpace(**fields, operations=tuple(operations))


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
