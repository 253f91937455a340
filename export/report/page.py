"""The local report: one HTML file that needs nothing else, and tables for the terminal."""

import base64
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from base.files import write_atomic
from base.streams import utf8

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb;
        --page: #f7f9fa; --card: #ffffff; --accent: #0b5d7a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --muted: #9aa5b1; --line: #323f4b;
          --page: #14191f; --card: #1c232b; --accent: #7cc4da; } }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.1rem; margin: 0 0 .75rem; color: var(--accent); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
          padding: 1.25rem 1.5rem; margin: 0 0 1.25rem; overflow-x: auto; }
p { margin: 0 0 .75rem; white-space: pre-line; }
table { border-collapse: collapse; width: 100%; margin: 0 0 .75rem; font-size: .95rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-top: 1px solid var(--line);
         vertical-align: top; overflow-wrap: anywhere; }
thead th { border-top: 0; color: var(--muted); font-weight: 600; }
tbody th { color: var(--muted); font-weight: 400; white-space: nowrap; }
.columns th, .columns td { overflow-wrap: break-word; }
a { color: var(--accent); }
td { font-variant-numeric: tabular-nums; }
img { display: block; max-width: 100%; margin: .5rem auto; background: #fff; border-radius: 6px; }
section > :last-child { margin-bottom: 0; }
"""
# The browser itself refuses scripts and anything from outside the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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
    body = "\n".join(_section(section) for section in sections)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""
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


def _section(section: Section) -> str:
    paragraphs = [f"<p>{escape(part.strip())}</p>" for part in section.text.split("\n\n") if part]
    parts = [
        f"<h2>{escape(section.heading)}</h2>",
        *paragraphs,
        _table(section.table, section.header, section.links),
        *(_picture(picture) for picture in section.pictures),
    ]
    return "<section>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _table(
    rows: Sequence[tuple[str, ...]], header: tuple[str, ...], links: Mapping[str, str]
) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = [
        f"<tr><th>{_linked(name, links)}</th>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    ]
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    kind = ' class="columns"' if header else ""
    return f"<table{kind}>{thead}<tbody>{''.join(lines)}</tbody></table>"


def _linked(name: str, links: Mapping[str, str]) -> str:
    if name not in links:
        return escape(name)
    return f'<a href="{escape(links[name])}">{escape(name)}</a>'


def _picture(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{content}">'


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
