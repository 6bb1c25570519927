"""The pictures of the study's own page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.axes import label_ends, whole_ticks
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, GREY, INK, MUTED, ORANGE, PALETTE, THEME
from foldrace.analysis.reports.tiles import show, tile
from foldrace.analysis.study.plan import PARTS, Stage
from foldrace.analysis.study.record import PartRecord, StudyRecord
from foldrace.analysis.text import listed
from foldrace.search.text import clock

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "REFERENCE_MSE",
    "against_linear",
    "latent_map",
    "reconstructions",
    "vae_folds",
    "wall_clock",
]

REFERENCE_MSE = 0.021467
"""The study's test MSE; it does not say how large its code was."""

_IMAGES = 12


def against_linear(record: StudyRecord) -> Figure | None:
    """The autoencoders' test errors beside those of as many principal components."""
    sizes = [size for size, _ in record.autoencoders if size in record.linear]
    if not sizes:
        return None
    own = {size: part.test["mse"] for size, part in record.autoencoders}
    linear = {size: record.linear[size].mse for size in sizes}
    changes = [(size, 1 - own[size] / linear[size]) for size in sizes]
    told = [
        f"{abs(change):.0%} {'lower' if change > 0 else 'higher'} with {size} numbers"
        for size, change in changes
    ]
    caption = (
        f"Mean squared error a pixel on the {record.test_samples:,} test images. PCA is the best"
        f" that a linear code of the same size can do; the autoencoder's error is {listed(told)}."
    ).replace("%", " %")
    if record.whole:
        caption += f" Dashed: the study's {REFERENCE_MSE}; the size of its code is not stated."

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, size in enumerate(sizes):
            axes.plot([own[size], linear[size]], [place, place], color=GREY, linewidth=2, zorder=1)
            for value, colour, name in (
                (own[size], BLUE, "autoencoder"),
                (linear[size], MUTED, "PCA"),
            ):
                axes.plot(value, place, "o", color=colour, markersize=9, zorder=3)
                axes.annotate(
                    f"{name} {value:.4f}",
                    (value, place),
                    xytext=(0, 9),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                    fontweight="bold" if colour == BLUE else "normal",
                )
        if record.whole:
            axes.axvline(REFERENCE_MSE, color=ORANGE, linestyle="--", linewidth=1.4)
            axes.annotate(
                "the study",
                (REFERENCE_MSE, 0),
                xycoords=("data", "axes fraction"),
                xytext=(4, 4),
                textcoords="offset points",
                color=ORANGE,
            )
        axes.set_yticks(range(len(sizes)), [f"{size} numbers" for size in sizes])
        axes.set(xlabel="test MSE a pixel, lower is better", ylim=(-0.6, len(sizes) - 0.3))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.15)

    alt = "; ".join(
        f"{size} numbers: autoencoder {own[size]:.4f}, PCA {linear[size]:.4f}" for size in sizes
    )
    title = "Test error against the best linear code of the same size"
    return draw("against-linear", title, caption, alt, plot, size=(7.2, 0.9 + 0.75 * len(sizes)))


def reconstructions(record: StudyRecord) -> Figure | None:
    """The same test images through principal components and autoencoders of each size."""
    rows: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for size, part in record.autoencoders:
        if "first_reconstructions" not in part.evidence or size not in record.linear:
            continue
        if not rows:
            rows.append(part.evidence["images"][:_IMAGES])
            labels.append("test image")
        rows += [
            record.linear[size].reconstructions[:_IMAGES],
            part.evidence["first_reconstructions"][:_IMAGES],
        ]
        labels += [f"PCA {size}", f"autoencoder {size}"]
    if not rows:
        return None
    count = min(map(len, rows))
    tiles = tile(np.stack([row[:count] for row in rows]))
    caption = f"The first {count} test images through codes of the size that stands at the row."

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        show(axes, tiles)
        axes.set_yticks(tiles.row_centres, labels)
        for text in axes.get_yticklabels():
            text.set_color(BLUE if text.get_text().startswith("auto") else INK)

    height, width = tiles.pixels.shape[:2]
    alt = f"Rows of {count} images: {listed(labels)}"
    size_ = (7.2, 6.2 * height / width + 0.1)
    return draw("reconstructions", "What is left of an image", caption, alt, plot, size=size_)


def latent_map(part: PartRecord) -> Figure | None:
    """The latent report's t-SNE map, read back; None if there is none."""
    stem = part.figures / "latent-tsne"
    if not (stem.with_suffix(".svg").is_file() and stem.with_suffix(".png").is_file()):
        return None
    svg = re.sub(
        r'<svg width="\S+" height="\S+" ',
        "<svg ",
        stem.with_suffix(".svg").read_text("utf-8"),
        count=1,
    )
    for variable, colour in THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    caption = (
        "Every dot is a test image, placed by t-SNE on its code and coloured by its class, which"
        " training never saw. Neighbours mean something in such a map; distances between groups,"
        " and their sizes, do not."
    )
    alt = "A t-SNE map of the test images' codes"
    return Figure(
        "tsne",
        "The test images by their codes",
        caption,
        alt,
        svg,
        stem.with_suffix(".png").read_bytes(),
    )


def vae_folds(record: StudyRecord) -> Figure | None:
    """The winner's validation loss in each fold and epoch: what never moved in the study."""
    vae = record.vae
    if vae is None or not {"val_reconstruction", "val_kl"} <= set(vae.curves.columns):
        return None
    curves = vae.curves.assign(
        loss=vae.curves["val_reconstruction"] + vae.curves["val_kl"] - vae.constant
    )
    folds = curves.pivot(index="epoch", columns="fold", values="loss")
    label = "squared error + KL" if vae.variance == 0.5 else "negative ELBO"
    points, distinct = int(folds.count().sum()), int(curves["loss"].nunique())
    own = "no two are the same" if distinct == points else f"{distinct} are distinct"
    caption = (
        f"Of {points} losses, one a fold and epoch, {own}. In the study all of these points were"
        " 0.021405979990959167: it evaluated a model that was not the one in training."
    )

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, fold in enumerate(folds):
            axes.plot(
                folds.index,
                folds[fold],
                "o-",
                color=PALETTE[place % len(PALETTE)],
                linewidth=2,
                markersize=5,
            )
        axes.set(xlabel="epoch", ylabel=f"{label}, nats an image")
        whole_ticks(axes)
        last = folds.iloc[-1]
        label_ends(
            axes,
            [
                (last[fold], f"fold {fold}  {last[fold]:.2f}", PALETTE[at % len(PALETTE)])
                for at, fold in enumerate(folds)
            ],
        )

    alt = f"Validation loss over {len(folds)} epochs in {folds.shape[1]} folds: {own}"
    return draw(
        "vae-folds", "The VAE's validation loss, fold by fold", caption, alt, plot, size=(7.2, 3.0)
    )


def wall_clock(record: StudyRecord) -> Figure | None:
    """How long each part took, by stage."""
    seconds, total = record.journal.seconds, record.journal.total
    parts = [part for part in PARTS if seconds.get(part.key)]
    if not parts:
        return None
    colours = {Stage.SWEEP: BLUE, Stage.REFIT: ORANGE, Stage.REPORTS: GREY}
    longest = max(parts, key=record.journal.spent)
    share = 100 * record.journal.spent(longest) / total
    caption = (
        f"{clock(total)} in all, interruptions left out; {longest.title.lower()} took {share:.0f}"
        " %. Blue: the sweep; orange: the refit and its evidence; grey: the reports."
    )

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, part in enumerate(parts):
            left = 0.0
            for stage in Stage:
                width = seconds[part.key].get(stage.value, 0.0) / 60
                axes.barh(place, width, left=left, color=colours[stage], height=0.55)
                left += width
            text = f"{clock(60 * left)}  ({6000 * left / total:.0f} %)"
            axes.annotate(
                text,
                (left, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=INK,
            )
        axes.set_yticks(range(len(parts)), [part.title for part in parts])
        axes.set(xlabel="minutes", ylim=(len(parts) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.2)

    alt = "; ".join(f"{part.title}: {clock(record.journal.spent(part))}" for part in parts)
    return draw(
        "wall-clock",
        "Where the time went",
        caption,
        alt,
        plot,
        size=(7.2, 0.8 + 0.42 * len(parts)),
    )
