"""The local report: one HTML file that needs nothing else, and tables for the terminal."""

import base64
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from base.files import write_atomic
from base.streams import utf8

# Whatever is filled in is escaped.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


@dataclass(frozen=True)
class Section:
    """A part of a report: text (blank lines part paragraphs), table rows under an optional
    header, and PNG pictures. Rows whose first cell is in `links` lead to that address."""

    heading: str
    text: str = ""
    table: Sequence[tuple[str, ...]] = ()
    header: tuple[str, ...] = ()
    pictures: Sequence[Path] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write one self-contained HTML file: pictures inside, no scripts, all text escaped."""
    page = _ENVIRONMENT.get_template("page.html").render(title=title, sections=sections, png=_png)
    write_atomic(path, utf8(page).encode())


@contextmanager
def drawing_last(path: Path, mend: str = "") -> Iterator[None]:
    """Say in one line why `path` was not drawn, whatever the reason, and how to `mend` that.

    What comes last must not lose what came before: results are on disk already.
    """
    try:
        yield
    except Exception as error:
        reason = "".join(str(error).splitlines()[:1])
        print(
            f"{path}: not drawn ({type(error).__name__}: {reason}); all results are kept{mend}",
            file=sys.stderr,
        )
        with suppress(OSError):
            path.unlink()  # an older one would pass for it


def _png(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()


def fact_rows(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a row for every fact, named by its path, as a person writes values.

    Of facts that hold many others in a list only their number is told.
    """
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from fact_rows(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", _value_text(value)


def _value_text(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case Mapping() if not value:
            return "none"
        case list() | tuple():
            if any(isinstance(one, Mapping | list | tuple) for one in value):
                return f"{len(value)} entries"
            return ", ".join(map(_value_text, value)) or "none"
    return str(value)


def table_text(rows: Sequence[tuple[str, str]]) -> str:
    """Write rows as two aligned columns of plain text."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)
