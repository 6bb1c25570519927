"""Figures of the study's page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foldrace.analysis.reports.axes import label_ends, whole_ticks
from foldrace.analysis.reports.image_rows import ImageRow, draw_image_rows
from foldrace.analysis.reports.marks import label, rows
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, GREY, INK, MUTED, ORANGE, PALETTE, THEME
from foldrace.analysis.study.plan import PARTS, Stage
from foldrace.analysis.study.record import PartRecord, StudyRecord
from foldrace.analysis.study.results import REFERENCE_MSE
from foldrace.analysis.text import listed, percent
from foldrace.search.text import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["against_linear", "latent_map", "reconstructions", "vae_folds", "wall_clock"]

_IMAGES = 12


def against_linear(record: StudyRecord) -> Figure | None:
    """The autoencoders' test errors beside those of PCA; None without a refitted autoencoder."""
    errors = {
        size: (part.test["mse"], record.linear[size].mse)
        for size, part in record.autoencoders
        if size in record.linear
    }
    if not errors:
        return None
    changes = {size: 1 - own / linear for size, (own, linear) in errors.items()}
    differences = [
        f"{percent(abs(change))} {'lower' if change > 0 else 'higher'} with {size} numbers"
        for size, change in changes.items()
    ]
    dashed = f" Dashed: the study's {REFERENCE_MSE}; the size of its code is not stated."

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, (own, linear) in enumerate(errors.values()):
            axes.plot([own, linear], [place, place], color=GREY, linewidth=2, zorder=1)
            _plot_error(axes, f"autoencoder {own:.4f}", own, place, BLUE, "bold")
            _plot_error(axes, f"PCA {linear:.4f}", linear, place, MUTED, "normal")
        if record.whole:
            axes.axvline(REFERENCE_MSE, color=ORANGE, linestyle="--", linewidth=1.4)
            at, bottom = (REFERENCE_MSE, 0), ("data", "axes fraction")
            label(axes, "the study", at, (4, 4), xycoords=bottom, va="baseline", color=ORANGE)
        axes.set_yticks(range(len(errors)), [f"{size} numbers" for size in errors])
        axes.set(xlabel="test MSE per pixel, lower is better", ylim=(-0.6, len(errors) - 0.3))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.15)

    texts = [
        f"{size} numbers: autoencoder {a:.4f}, PCA {p:.4f}" for size, (a, p) in errors.items()
    ]
    return draw(
        "against-linear",
        "Test error against the best linear code of the same size",
        f"Mean squared error per pixel on the {record.test_samples:,} test images. PCA is the best"
        f" linear code of the same size; the autoencoder's error is {listed(differences)}."
        f"{dashed if record.whole else ''}",
        "; ".join(texts),
        plot,
        size=(7.2, 0.9 + 0.75 * len(errors)),
    )


def _plot_error(axes: Axes, text: str, error: float, place: int, colour: str, weight: str) -> None:
    axes.plot(error, place, "o", color=colour, markersize=9, zorder=3)
    look = {"ha": "center", "va": "baseline", "fontweight": weight}
    label(axes, text, (error, place), (0, 9), color=colour, **look)


def reconstructions(record: StudyRecord) -> Figure | None:
    """The same test images through PCA and autoencoders of each size; None without images."""
    shown: list[ImageRow] = []
    for size, part in record.autoencoders:
        own = part.evidence.get("first_reconstructions")
        if own is None or size not in record.linear:
            continue
        if not shown:
            shown.append(("test image", part.evidence["images"][:_IMAGES], INK))
        linear = record.linear[size].reconstructions
        shown.append((f"PCA {size}", linear[:_IMAGES], MUTED))
        shown.append((f"autoencoder {size}", own[:_IMAGES], BLUE))
    if not shown:
        return None
    count = min(len(images) for _, images, _ in shown)
    return draw_image_rows(
        "reconstructions",
        "Reconstructions by code size",
        f"The first {count} test images, reconstructed from codes of the size at the row.",
        shown,
        f"Rows of {count} images: {listed([name for name, _, _ in shown])}",
    )


def latent_map(part: PartRecord) -> Figure | None:
    """The t-SNE map of the latent report, read from its files; None if there is none."""
    svg_file, png_file = (part.figures / f"latent-tsne.{kind}" for kind in ("svg", "png"))
    if not (svg_file.is_file() and png_file.is_file()):
        return None
    svg = svg_file.read_text("utf-8")
    svg = re.sub(r'<svg width="\S+" height="\S+" ', "<svg ", svg, count=1)
    for variable, colour in THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Figure(
        "tsne",
        "The test images by their codes",
        "A dot is a test image, placed by t-SNE on its code and coloured by its class, which"
        " training never saw. Neighbours mean something in such a map; distances between groups,"
        " and their sizes, do not.",
        "A t-SNE map of the test images' codes",
        svg,
        png_file.read_bytes(),
    )


def vae_folds(record: StudyRecord) -> Figure | None:
    """The best VAE's validation loss in each fold and epoch; None without a completed trial."""
    vae = record.vae
    if vae is None or not {"val_reconstruction", "val_kl"} <= set(vae.curves.columns):
        return None
    loss = vae.curves["val_reconstruction"] + vae.curves["val_kl"] - vae.constant
    folds = vae.curves.assign(loss=loss).pivot(index="epoch", columns="fold", values="loss")
    name = "squared error + KL" if vae.variance == 0.5 else "negative ELBO"
    points, distinct = int(folds.count().sum()), int(loss.nunique())
    differ = "no two are equal" if distinct == points else f"{distinct} are distinct"

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        ends = []
        for place, fold in enumerate(folds):
            colour = PALETTE[place % len(PALETTE)]
            axes.plot(folds.index, folds[fold], "o-", color=colour, linewidth=2, markersize=5)
            last = folds[fold].iloc[-1]
            ends.append((last, f"fold {fold}  {last:.2f}", colour))
        axes.set(xlabel="epoch", ylabel=f"{name}, nats per image")
        whole_ticks(axes)
        label_ends(axes, ends)

    return draw(
        "vae-folds",
        "The VAE's validation loss, fold by fold",
        f"Of {points} losses, one per fold and epoch, {differ}. In the study all of these points"
        " were 0.021405979990959167: it evaluated a model other than the one in training.",
        f"Validation loss over {len(folds)} epochs in {folds.shape[1]} folds: {differ}",
        plot,
        size=(7.2, 3.0),
    )


def wall_clock(record: StudyRecord) -> Figure | None:
    """The time of each part, by stage; None before the first stage."""
    progress = record.progress
    parts = [part for part in PARTS if progress.seconds.get(part.key)]
    if not parts:
        return None
    colours = {Stage.SWEEP: BLUE, Stage.REFIT: ORANGE, Stage.REPORTS: GREY}
    longest = max(parts, key=progress.spent)
    share = percent(progress.spent(longest) / progress.total)

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, part in enumerate(parts):
            left = 0.0
            for stage in Stage:
                width = progress.seconds[part.key].get(stage.value, 0.0) / 60
                axes.barh(place, width, left=left, color=colours[stage], height=0.55)
                left += width
            text = f"{clock(60 * left)}  ({percent(60 * left / progress.total)})"
            label(axes, text, (left, place), color=INK)
        rows(axes, [part.title for part in parts])
        axes.set(xlabel="minutes")
        axes.margins(x=0.2)

    return draw(
        "wall-clock",
        "Where the time went",
        f"{clock(progress.total)} in all, without interruptions; {longest.title.lower()} took"
        f" {share}. Blue: the sweep; orange: the refit and its evidence; grey: the reports.",
        "; ".join(f"{part.title}: {clock(progress.spent(part))}" for part in parts),
        plot,
        size=(7.2, 0.8 + 0.42 * len(parts)),
    )
