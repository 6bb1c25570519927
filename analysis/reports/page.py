"""A report as one self-contained HTML page, and its figures as files.

A page makes no network requests (a policy in its head forbids them) and follows the browser's
light or dark theme. It can be read from disk, in MLflow's sandboxed frame, on a phone and printed.
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
from typing import TYPE_CHECKING, Any

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
    "render",
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
    """A figure, drawn by `draw`.

    Attributes:
        name: the stem of its files, unique in a report: ``learning-curves``.
        title: one line.
        caption: a sentence that says what to see.
        alt: the alternative text.
        svg: an ``<svg>`` element whose colours follow the page's theme.
        png: in the light theme, 150 dpi, for print and slides.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Table:
    """Rows of text; columns of numbers are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column, whether all its cells are numbers."""
        return tuple(
            bool(self.rows) and all(_NUMBER.fullmatch(str(row[at]).strip()) for row in self.rows)
            for at in range(len(self.columns))
        )


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Picture:
    """An image shown without smoothing, such as a grid of samples.

    Attributes:
        name: the stem of its file, unique in a report.
        title: one line.
        caption: a sentence that says what to see.
        alt: the alternative text.
        png: the image.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes

    @property
    def width(self) -> int:
        """The image's width in pixels."""
        return int(struct.unpack(">I", self.png[16:20])[0])

    @property
    def shown_width(self) -> int:
        """The width on the page: the largest whole multiple, up to 8, that fits the column."""
        return self.width * max(1, min(8, _COLUMN_PIXELS // self.width))

    @property
    def uri(self) -> str:
        """The image as a ``data:`` URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Raw:
    """Trusted HTML with its own script and style.

    The page's policy lets it load nothing and call no ``eval``.
    """

    html: str


@dataclass(frozen=True)
class Code:
    """Preformatted text, folded until the reader opens it."""

    title: str
    text: str


Block = Figure | Table | Paragraph | Picture | Raw | Code


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The section's ``id`` in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Report:
    """A report, written by `write_report`.

    Attributes:
        kind: sweep, optimizers, latent or vae; the stem of the page's file name.
        title: the page's heading.
        lead: the main result in one or two sentences.
        facts: up to about six pairs of label and value.
        sections: the body.
        source: the record that the report was made from, shown in the footer.
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
    """Draws a figure in the reports' style.

    Args:
        name, title, caption, alt: see `Figure`.
        plot: draws on an empty matplotlib figure. The colours of
            `foldrace.analysis.reports.style.THEME` follow the page's theme; use
            ``rasterized=True`` for thousands of points.
        size: width and height in inches.
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
    """matplotlib's document as an element of a page.

    Its ids are prefixed with its name, the theme's colours become CSS variables, and its size is
    left to the page.
    """
    svg = svg[svg.index("<svg") :]
    # a <style> inside it would apply to the whole page
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
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
    """A figure's element as a file: in the colours of the light theme, with a size."""
    for variable, colour in THEME.items():
        svg = svg.replace(f"var(--{variable})", colour)
    view = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert view is not None, "draw keeps the viewBox"
    return svg.replace("<svg ", f'<svg width="{view[1]}pt" height="{view[2]}pt" ', 1)


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``KIND.html``, ``figures/KIND-NAME.png`` and ``figures/KIND-NAME.svg``.

    Returns:
        The path of the page.

    Raises:
        AssertionError: two figures or pictures have the same name.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for path, content in _figure_files(report).items():
        (folder / path).write_bytes(content)
    page = folder / f"{report.kind}.html"
    page.write_text(_page(report), encoding="utf-8")
    return page


def report_files(report: Report, folder: Path) -> list[Path]:
    """The paths of the files that `write_report` writes into a folder, the page first."""
    return [folder / f"{report.kind}.html", *(folder / path for path in _figure_files(report))]


def _figure_files(report: Report) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for block in (block for section in report.sections for block in section.blocks):
        if not isinstance(block, Figure | Picture):
            continue
        stem = f"figures/{report.kind}-{block.name}"
        assert f"{stem}.png" not in files, f"two figures of one name: {block.name}"
        files[f"{stem}.png"] = block.png
        if isinstance(block, Figure):
            files[f"{stem}.svg"] = _standalone(block.svg).encode()
    return files


def _page(report: Report) -> str:
    contents = len(report.sections) >= _CONTENTS_FROM
    return render("page.html.j2", report=report, contents=contents, version=_version()) + "\n"


def render(template: str, **values: Any) -> str:
    """A template of this package as HTML, its values escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("foldrace.analysis.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["block"] = lambda block, name: type(block).__name__ == name
    return environment.get_template(template).render(**values)


def _version() -> str:
    try:
        return metadata.version("foldrace")
    except metadata.PackageNotFoundError:
        # run from a source tree that is not installed
        return ""
