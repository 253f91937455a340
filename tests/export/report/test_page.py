"""The report: everything inside, nothing executed, nothing fetched."""

import base64
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from export.report.figures import choices_figure
from export.report.page import Section, drawing_last, fact_rows, table_text, write_report

HOSTILE = '<script>alert("1")</script> & <img src="https://example.com/x.png">'


class Page(HTMLParser):
    """Every tag with its attributes, and the text of the body's parts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_all_text_is_escaped_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    section = Section(HOSTILE, HOSTILE, table=[(HOSTILE, HOSTILE)], header=(HOSTILE, HOSTILE))
    write_report(path, HOSTILE, [section])
    page = Page(path)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
    # title and heading 1, then the section's heading, text, header and row
    assert page.texts.count(HOSTILE) == 8


def test_pictures_are_inside_and_nothing_is_outside(tmp_path: Path) -> None:
    picture, path = tmp_path / 'alpha "20".png', tmp_path / "report.html"
    choices_figure(picture, {"kernel": {"3": 0.7, "5": 0.3}})
    write_report(path, "Student", [Section("Alpha", pictures=[picture, picture])])
    page = Page(path)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    for image in images:
        assert image["alt"] == 'alpha "20"'
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True) == picture.read_bytes()
    assert not any("href" in attributes for _, attributes in page.tags)
    assert "url(" not in path.read_text()
    assert "http:" not in path.read_text().replace("http-equiv", "")
    assert "https:" not in path.read_text()


def test_sections_keep_their_order_and_rows_their_cells(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    rows = [("searched", "19.2 ms", "95 %"), ("random", "19.4 ms", "93 %")]
    write_report(path, "Student", [Section("First", "one\n\ntwo"), Section("Second", table=rows)])
    texts = [text for text in Page(path).texts if text.strip()]
    start = texts.index("First")
    assert texts[start:] == ["First", "one", "two", "Second", *rows[0], *rows[1]]


def test_table_text_aligns_its_second_column() -> None:
    text = table_text([("target_ms", "20"), ("test accuracy", "96 %"), ("seed", "")])
    assert text.splitlines() == ["target_ms      20", "test accuracy  96 %", "seed"]
    assert table_text([]) == ""


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_report(tmp_path / f"{name}.html", name, [Section("classes", name, [(name, name)])])
    assert Page(tmp_path / f"{name}.html").texts.count("caf\\udce9") == 5


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What an earlier run has drawn does not stand in for it."""
    path = tmp_path / "report.html"
    path.write_text("older")
    with drawing_last(path, "; draw it again"):
        raise TypeError("a glyph\nof many lines")
    assert capsys.readouterr().err == (
        f"{path}: not drawn (TypeError: a glyph); all results are kept; draw it again\n"
    )
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), drawing_last(path):
        raise KeyboardInterrupt


def test_facts_are_rows_that_a_person_reads() -> None:
    """No brackets of a programming language, and no screens of what is in a file."""
    facts = {
        "table": {"check": {"error": 0.0123456789, "networks": 30}, "anchors": [{"ms": 1}] * 84},
        "sizes": (16, 32),
        "nobody": {},
        "none": [],
        "unknown": None,
        "kept": True,
        "broken": False,
        "name": "<b>",
        "front": [[1, 2], [3, 4]],
    }
    assert list(fact_rows(facts)) == [
        ("table: check: error", "0.0123457"),
        ("table: check: networks", "30"),
        ("table: anchors", "84 entries"),
        ("sizes", "16, 32"),
        ("nobody", "none"),
        ("none", "none"),
        ("unknown", "–"),
        ("kept", "yes"),
        ("broken", "no"),
        ("name", "<b>"),
        ("front", "2 entries"),
    ]
