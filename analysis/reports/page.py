"""A report as one self-contained HTML page, and its figures as files.

A page asks nothing of any network (a policy in its head forbids it), follows the reader's light or
dark theme, and can be opened from disk, inside MLflow's sandboxed frame, on a phone and on paper.
"""

from __future__ import annotations

import base64
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from foldrace.analysis.reports.style import THEME, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "Block",
    "Code",
    "Figure",
    "Paragraph",
    "Picture",
    "Raw",
    "Report",
    "Section",
    "Table",
    "draw",
    "report_files",
    "write_report",
]

_NUMBER = re.compile(
    r"[−+-]?[\d.,]+(e[−+-]?\d+)?\s*(±\s*[\d.,]+(e[−+-]?\d+)?)?\s*(%|s|ms|×)?|[–—]|"
)
_CONTENTS_FROM = 4
_COLUMN_PIXELS = 760


@dataclass(frozen=True)
class Figure:
    """One picture, made by `draw`.

    Attributes:
        name: a file's stem, unique in a report: ``learning-curves``.
        title: one line, what it is.
        caption: a sentence that says what to see.
        alt: the same for those who do not see it.
        svg: an ``<svg>`` element whose ink and grid follow the page's theme.
        png: light, 150 dpi, for print and slides.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Table:
    """Rows of text; columns of numbers are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column: whether all that stands in it is numbers."""
        return tuple(
            bool(self.rows) and all(_NUMBER.fullmatch(str(row[at]).strip()) for row in self.rows)
            for at in range(len(self.columns))
        )


@dataclass(frozen=True)
class Paragraph:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Picture:
    """Pixels: a strip or grid of images, as PNG, shown without smoothing; ``name`` is unique in a
    report."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes

    @property
    def width(self) -> int:
        """In its own pixels."""
        return int(struct.unpack(">I", self.png[16:20])[0])

    @property
    def shown_width(self) -> int:
        """In pixels of the page: the largest whole multiple that fits the column."""
        return self.width * max(1, min(8, _COLUMN_PIXELS // self.width))

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Raw:
    """Trusted HTML with its own script and style; it may load nothing, and may not call
    ``eval``."""

    html: str


@dataclass(frozen=True)
class Code:
    """Preformatted text, folded until it is asked for."""

    title: str
    text: str


Block = Figure | Table | Paragraph | Picture | Raw | Code


@dataclass(frozen=True)
class Section:
    """What stands below one heading."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """Its address within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        kind: sweep, optimizers, latent or vae; the page's file name.
        lead: the finding in one or two sentences: what a reader acts on.
        facts: up to about six pairs of label and value.
        source: what it was made of, for the last line;
            `foldrace.analysis.reports.make.make_reports` fills it in.
    """

    kind: str
    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    source: str = ""


def draw(
    name: str,
    title: str,
    caption: str,
    alt: str,
    plot: Callable[[Canvas], None],
    *,
    size: tuple[float, float] = (7.2, 3.6),
) -> Figure:
    """A figure that ``plot`` draws on an empty canvas of ``size`` inches, in our style.

    Draw ink, grid and paper in the colours of `foldrace.analysis.reports.style`, so that they
    follow the theme, and thousands of points with ``rasterized=True``.
    """
    with figure_style():
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=size, layout="constrained")
        plot(canvas)
        png, svg = io.BytesIO(), io.StringIO()
        canvas.savefig(png, format="png", dpi=150)
        canvas.savefig(svg, format="svg", facecolor="none", metadata={"Date": None})
    return Figure(
        name, title, caption, alt, _themed(svg.getvalue(), name, alt, size[0]), png.getvalue()
    )


def _themed(svg: str, name: str, alt: str, inches: float) -> str:
    """matplotlib's document as an element: ids of its own, its colours as variables, its size left
    to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL
    )  # a style would be the page's
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None, "matplotlib writes a viewBox"
    head = (
        f'<svg role="img" aria-label="{escape(alt)}" {view[0]} style="--inches: {inches:g};'
        ' stroke-linejoin: round"'
    )
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f"{head} {names}>" + svg[svg.index(">") + 1 :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for variable, colour in THEME.items():
        svg = re.sub(re.escape(colour), f"var(--{variable})", svg, flags=re.IGNORECASE)
    return svg.strip()


def _standalone(svg: str) -> str:
    """A figure's element as a file: in its light colours, of its own size."""
    for variable, colour in THEME.items():
        svg = svg.replace(f"var(--{variable})", colour)
    view = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert view is not None, "draw keeps the viewBox"
    return svg.replace("<svg ", f'<svg width="{view[1]}pt" height="{view[2]}pt" ', 1)


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``KIND.html``, self-contained, and ``figures/KIND-NAME.png`` (and ``.svg``); returns
    the page's path."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for path, content in _figure_files(report).items():
        (folder / path).write_bytes(content)
    page = folder / f"{report.kind}.html"
    page.write_text(_page(report), encoding="utf-8")
    return page


def report_files(report: Report, folder: Path) -> list[Path]:
    """The files that `write_report` writes into a folder, the page first."""
    return [folder / f"{report.kind}.html", *(folder / path for path in _figure_files(report))]


def _figure_files(report: Report) -> dict[str, bytes]:
    pictured = [
        block
        for section in report.sections
        for block in section.blocks
        if isinstance(block, Figure | Picture)
    ]
    names = [block.name for block in pictured]
    assert len(names) == len(set(names)), f"two figures of one name: {sorted(names)}"
    files = {f"figures/{report.kind}-{block.name}.png": block.png for block in pictured}
    drawn = [block for block in pictured if isinstance(block, Figure)]
    return files | {
        f"figures/{report.kind}-{block.name}.svg": _standalone(block.svg).encode()
        for block in drawn
    }


def _page(report: Report) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("foldrace.analysis.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["block"] = lambda block, name: type(block).__name__ == name
    template = environment.get_template("page.html.j2")
    contents = len(report.sections) >= _CONTENTS_FROM
    return template.render(report=report, contents=contents, version=_version()) + "\n"


def _version() -> str:
    try:
        return metadata.version("foldrace")
    except metadata.PackageNotFoundError:  # run from its sources
        return ""
