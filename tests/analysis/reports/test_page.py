"""A report as a page: self-contained, readable by everybody, in both themes; and its figures as
files."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from PIL import Image

from foldrace.analysis.reports.page import (
    Code,
    Figure,
    Paragraph,
    Picture,
    Raw,
    Report,
    Section,
    Table,
    draw,
    report_files,
    write_report,
)
from foldrace.analysis.reports.style import INK, ORANGE, PALETTE, THEME


def line(canvas: Canvas) -> None:
    axes = canvas.subplots()
    axes.plot([1, 2, 3], [3, 1, 2], color=ORANGE, marker="o")
    axes.fill_between([1, 2, 3], 0, 1, color=PALETTE[0], clip_on=True)
    axes.set(xlabel="epoch", title="β & <b>")


def figure(name: str = "curves") -> Figure:
    return draw(name, "Curves", "They fall.", 'A "line" that falls & rises', line)


def strip() -> Picture:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 24), np.uint8)).save(file, "png")
    return Picture("strip", "A strip", "Digits.", "Eight digits", file.getvalue())


def report(*blocks: object, sections: int = 1) -> Report:
    every = tuple(
        Section(f"Part {i}", blocks if i == 0 else (Paragraph("more"),)) for i in range(sections)
    )  # type: ignore[arg-type]
    return Report(
        "sweep",
        "ae: sweep",
        "Trial 1 leads.",
        (("Trials", "3"),),
        every,
        "Sweep ae of 2026-01-02, key k.",
    )


def write(folder: Path, *blocks: object, sections: int = 1) -> str:
    return write_report(report(*blocks, sections=sections), folder).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Every tag with its attributes; and whether tags close as they open."""

    VOID = ("meta", "img", "link", "br", "path", "use", "image")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def asked_for(page: str) -> list[str]:
    """Every address that a browser would fetch."""
    found = re.findall(r"url\(\s*['\"]?([^)'\"]*)|@import\s+['\"]([^'\"]*)", page)
    addresses = [one or other for one, other in found]
    for _, attributes in Reader(page).tags:
        addresses += [
            value
            for name, value in attributes.items()
            if name in ("src", "href", "xlink:href", "srcset")
        ]
    return [address for address in addresses if not address.startswith(("#", "data:"))]


def test_a_page_asks_nothing_of_anybody(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        figure(),
        strip(),
        Table("T", ("a",), (("1",),)),
        Code("Spec", "a: 1"),
        sections=4,
    )
    assert asked_for(page) == []
    assert "default-src 'none'" in page
    assert asked_for('<img src="https://a/b.png"><p style="background: url(http://c)"></p>') != []


def test_tags_are_closed_as_they_were_opened(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        figure(),
        strip(),
        Table("T", ("a",), (("1",),)),
        Code("Spec", "a: 1"),
        sections=4,
    )
    assert Reader(page).open == []


def test_text_is_escaped_and_trusted_html_is_not(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        Paragraph("<script>bad()</script>"),
        Table("<i>", ("<u>",), (("<s>",),)),
        Code("x", "</pre><b>"),
        Raw("<output>mine</output>"),
    )
    tags = {tag for tag, _ in Reader(page).tags}
    assert not {"script", "i", "u", "s", "b"} & tags
    assert "output" in tags


def test_every_image_has_alternative_text(tmp_path: Path) -> None:
    tags = Reader(write(tmp_path, figure(), strip())).tags
    assert [attributes["alt"] for tag, attributes in tags if tag == "img"] == ["Eight digits"]
    [drawing] = [attributes for tag, attributes in tags if tag == "svg"]
    assert (drawing["role"], drawing["aria-label"]) == ("img", 'A "line" that falls & rises')


def test_a_long_report_has_contents_whose_links_lead_somewhere(tmp_path: Path) -> None:
    tags = Reader(write(tmp_path, Paragraph("x"), sections=4)).tags
    anchors = {attributes["id"] for tag, attributes in tags if tag == "section"}
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert [link.removeprefix("#") for link in links] == ["part-0", "part-1", "part-2", "part-3"]
    assert anchors == {link.removeprefix("#") for link in links}
    assert "<nav" not in write(tmp_path, Paragraph("x"), sections=3)


def test_a_figure_follows_the_theme_on_the_page_and_is_light_as_a_file(tmp_path: Path) -> None:
    drawn = figure()
    assert "var(--orange)" in drawn.svg and "var(--muted)" in drawn.svg
    assert not any(colour.lower() in drawn.svg.lower() for colour in THEME.values())
    write(tmp_path, drawn)
    file = (tmp_path / "figures" / "sweep-curves.svg").read_text(encoding="utf-8")
    assert "var(" not in file and ORANGE in file
    root = ElementTree.fromstring(file)  # well-formed
    assert (root.get("width"), root.get("height")) == ("518.4pt", "259.2pt")
    css = (
        Path(__file__).parents[3] / "analysis" / "reports" / "templates" / "page.css"
    ).read_text()
    for name in THEME:
        assert css.count(f"--{name}: ") == 2, name  # a light one and a dark one


def test_two_figures_on_a_page_share_no_id() -> None:
    first, second = (
        set(re.findall(r'\bid="([^"]*)"', figure(name).svg)) for name in ("one", "two")
    )
    assert first and not first & second
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', figure("one").svg)
    assert used and set(used) <= first


def test_drawing_twice_gives_the_same_picture() -> None:
    assert figure() == figure()


def test_a_png_is_light_and_150_dots_an_inch() -> None:
    with Image.open(io.BytesIO(figure().png)) as image:
        assert image.size == (1080, 540)
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_numbers_stand_to_the_right(tmp_path: Path) -> None:
    rows = (
        ("1", "0.02 ± 0.01", "adam", "–", "62 %", "−3e-05"),
        ("12", "0.5", "2 of 3", "7", "4 %", "1,234"),
    )
    table = Table("T", tuple("abcdef"), rows)
    assert table.numeric == (True, True, False, True, True, True)
    assert Table("T", ("a",), ()).numeric == (False,)
    assert write(tmp_path, table).count('<td class="number">') == 10


def test_the_files_are_those_that_are_announced(tmp_path: Path) -> None:
    made = report(figure(), strip())
    write_report(made, tmp_path)
    announced = {path.relative_to(tmp_path).as_posix() for path in report_files(made, tmp_path)}
    assert announced == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert announced == {
        "sweep.html",
        "figures/sweep-curves.png",
        "figures/sweep-curves.svg",
        "figures/sweep-strip.png",
    }


def test_the_footer_says_of_what_it_was_made(tmp_path: Path) -> None:
    assert "Sweep ae of 2026-01-02, key k." in write(tmp_path, Paragraph("x"))


def test_a_name_used_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="two figures of one name"):
        write(tmp_path, figure(), figure())


def test_class_colours_are_ten_and_do_not_follow_the_theme() -> None:
    assert len(set(PALETTE)) == 10 and not set(PALETTE) & set(THEME.values())
    assert INK not in PALETTE
