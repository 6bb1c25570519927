"""The study's own page: the story of the reference study, with our figures beside its own."""

from __future__ import annotations

import math
from html import escape

from foldrace.analysis.reports.comparison.curves import standings
from foldrace.analysis.reports.comparison.pictures import (
    reconstructions as optimizer_reconstructions,
)
from foldrace.analysis.reports.page import (
    Block,
    Code,
    Figure,
    Paragraph,
    Raw,
    Report,
    Section,
    Table,
)
from foldrace.analysis.reports.vae.pictures import prior_samples
from foldrace.analysis.statistics.intervals import plus_minus
from foldrace.analysis.study import figures as study_figures
from foldrace.analysis.study.figures import REFERENCE_MSE
from foldrace.analysis.study.plan import PARTS
from foldrace.analysis.study.record import PartRecord, StudyRecord
from foldrace.analysis.text import digits, plural
from foldrace.search.text import clock
from foldrace.trainables.training.reports import mean_and_standard_error

__all__ = ["build_page", "figures_beside"]

KIND = "index"
_NONE = "–"
_SAMPLES = 40
_PAGE_NAMES = {
    "sweep": "its sweep",
    "latent": "latent space",
    "vae": "the VAE's report",
    "optimizers": "the whole comparison",
}
_LINKS = """<style>
.links { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 22px; padding: 0;
    list-style: none; }
.links a { display: block; padding: 7px 14px; border-radius: 8px; background: var(--tile);
    text-decoration: none; }
.links a:hover, .links a:focus-visible { text-decoration: underline; }
</style>"""


def build_page(record: StudyRecord) -> Report:
    """The page of a study, as far as it has come."""
    return Report(
        KIND, "The reference study, done again", _lead(record), _facts(record), _sections(record)
    )


def _sections(record: StudyRecord) -> tuple[Section, ...]:
    columns = ("figure", "the study", "here")
    rows = tuple(figures_beside(record))
    return (
        Section(
            "Our figures beside the study's",
            (
                Paragraph(_ABOUT),
                Table("What was measured", columns, rows, _data_sentence(record)),
            ),
        ),
        Section(
            "The autoencoder",
            (
                *_links(record, ("ae", "ae4"), ("sweep",)),
                _or(study_figures.against_linear(record), "No autoencoder has been refitted yet."),
                *_if(study_figures.reconstructions(record)),
            ),
        ),
        Section("Adam against SGD", _optimizers(record)),
        Section("The latent space", _latent(record)),
        Section("The variational autoencoder", _vae(record)),
        Section("Five flaws, and what is done instead", (_flaws(record),)),
        Section(
            "What it took",
            (
                _or(study_figures.wall_clock(record), "Nothing has run yet."),
                *_again(record),
            ),
        ),
    )


_ABOUT = (
    "In December 2021 a small study in a single notebook trained a convolutional autoencoder and a"
    " variational one on FashionMNIST without labels, searched their learning rate with Optuna"
    " over three folds, compared Adam with SGD, and looked at the latent space with t-SNE. Here is"
    " all of it again, as sweeps."
)


def _lead(record: StudyRecord) -> str:
    told = []
    for size, part in record.autoencoders[-1:]:
        linear = record.linear.get(size)
        against = f"; {size} principal components: {linear.mse:.4f}" if linear else ""
        compared = f"the study: {REFERENCE_MSE:.4f}{against}" if record.whole else against[2:]
        said = (
            f"With a code of {size} numbers the autoencoder's test MSE is {part.test['mse']:.4f}"
        )
        told.append(said + (f" ({compared})." if compared else "."))
    if record.verdict is not None:
        told.append(record.verdict.lead)
    if len(set(_vae_folds(record))) > 1:
        told.append(
            "The VAE's validation loss, one constant in the study, differs from fold to fold."
        )
    return " ".join(told) or "The study has not come far enough to say anything yet."


def _facts(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    facts = [
        (f"test MSE, code of {size}", f"{part.test['mse']:.5f}")
        for size, part in reversed(record.autoencoders)
    ]
    if record.verdict is not None:
        facts.append(("better optimizer", record.verdict.winner or "none declared"))
    vae = record.parts.get("vae")
    if vae is not None and {"squared_error", "kl"} <= set(vae.test):
        facts.append(
            ("VAE: squared error + KL", f"{vae.test['squared_error'] + vae.test['kl']:.2f}")
        )
    raced = [part for part in record.parts.values() if part.spec.scheduler.kind != "fifo"]
    if raced:
        total = sum(len(part.trials) for part in raced)
        facts.append(
            ("trials given up early", f"{sum(part.given_up for part in raced)} of {total}")
        )
    return (*facts, ("time in all", clock(record.journal.total)))


# --- figures beside the study's ------------------------------------------------------------------


def figures_beside(record: StudyRecord) -> list[tuple[str, str, str]]:
    """What was measured, in the study's words and ours: (figure, the study, here)."""
    rows = []
    part = record.parts.get("ae")
    if part is not None and part.folds:
        lr = part.param("lr")
        rows += [
            ("autoencoder: validation MSE over 3 folds", "about 0.0256", _mean(part.folds)),
            (
                "its learning rate",
                "about 0.0128, searched from 0.01 to 0.03",
                f"{digits(lr, 3)}{_range(part)}",
            ),
        ]
    for size, refitted in reversed(record.autoencoders):
        study = f"{REFERENCE_MSE} (code size not stated)"
        rows.append(
            (f"autoencoder: test MSE, code of {size}", study, f"{refitted.test['mse']:.5f}")
        )
        if size in record.linear:
            rows.append(
                (f"PCA: test MSE, {size} components", _NONE, f"{record.linear[size].mse:.5f}")
            )
    if record.verdict is not None and record.verdict.standings:
        means = "; ".join(
            f"{arm} {plus_minus(interval)}" for arm, interval in record.verdict.standings.items()
        )
        rows.append(
            (
                "optimizers: validation MSE",
                "Adam visibly better; no figure",
                f"{means} (95 % intervals)",
            )
        )
    folds = _vae_folds(record)
    if folds:
        each = ", ".join(f"{loss:.2f}" for loss in folds)
        rows.append(
            (
                "VAE: validation loss, fold by fold",
                "0.0214060 in each, and in each epoch",
                f"{each} nats an image",
            )
        )
    vae = record.parts.get("vae")
    if vae is not None and {"squared_error", "kl"} <= set(vae.test):
        error, kl = vae.test["squared_error"], vae.test["kl"]
        rows.append(
            (
                "VAE: test loss, squared error + KL",
                _NONE,
                f"{error:.2f} + {kl:.2f} = {error + kl:.2f}",
            )
        )
    cpus = record.environment.get("cpus")
    where = f" on {plural(cpus, 'core')}" if cpus else ""
    rows.append(("time", "50 to 60 minutes", clock(record.journal.total) + where))
    return rows


def _range(part: PartRecord) -> str:
    lr = part.spec.space.get("lr")
    bounds = getattr(lr, "bounds", None)
    return f", searched from {bounds[0]:g} to {bounds[1]:g}" if bounds else ""


def _mean(losses: tuple[float, ...]) -> str:
    mean, error = mean_and_standard_error(list(losses))
    return f"{mean:.5f} ± {error:.5f}" if math.isfinite(error) else f"{mean:.5f}"


def _vae_folds(record: StudyRecord) -> list[float]:
    vae = record.vae
    if vae is None:
        return []
    pairs = zip(vae.folds("val_reconstruction"), vae.folds("val_kl"), strict=False)
    return [reconstruction + kl - vae.constant for reconstruction, kl in pairs]


def _data_sentence(record: StudyRecord) -> str:
    if record.whole:
        return (
            f"FashionMNIST, {record.samples:,} training and {record.test_samples:,} test images,"
            " as in the study."
        )
    return (
        f"Here: {record.samples:,} training and {record.test_samples:,} test images of"
        f" {record.dataset}. The study had the 60,000 and 10,000 of FashionMNIST, so its figures"
        " stand here for orientation only."
    )


# --- parts ---------------------------------------------------------------------------------------


def _optimizers(record: StudyRecord) -> tuple[Block, ...]:
    if record.comparison is None or record.verdict is None:
        return (Paragraph("The optimizers have not been compared yet."),)
    return (
        Paragraph(record.verdict.lead),
        *_links(record, ("optimizers",), ("optimizers", "sweep")),
        *_if(standings(record.comparison, record.verdict)),
        *_if(_renamed(optimizer_reconstructions(record.comparison))),
    )


def _renamed(drawn: Figure | None) -> Figure | None:
    """Under a name of its own on this page, also for the ids in it."""
    if drawn is None:
        return None
    name = f"optimizer-{drawn.name}"
    svg = drawn.svg.replace(f'id="{drawn.name}-', f'id="{name}-').replace(
        f"#{drawn.name}-", f"#{name}-"
    )
    return Figure(name, drawn.title, drawn.caption, drawn.alt, svg, drawn.png)


def _latent(record: StudyRecord) -> tuple[Block, ...]:
    drawn = [
        figure for part in record.parts.values() if (figure := study_figures.latent_map(part))
    ]
    links = _links(record, ("ae", "ae4", "vae"), ("latent",))
    return (
        (*links, drawn[0]) if drawn else (*links, Paragraph("No latent space has been drawn yet."))
    )


def _vae(record: StudyRecord) -> tuple[Block, ...]:
    vae = record.parts.get("vae")
    if vae is None:
        return (Paragraph("The variational autoencoder has not been trained yet."),)
    anchor = (
        "The published loss on this data, squared error + KL with a code of 8 and a larger"
        " network, is 23.95 after 100 epochs of Adam at 1e-3, and 22.77 after tuning (DeepOBS"
        f" fmnist_vae; Schmidt et al., 2021). Here: {plural(vae.spec.epochs, 'epoch')}, as in the"
        " study."
    )
    return (
        *_links(record, ("vae",), ("vae", "sweep")),
        *((Paragraph(anchor),) if record.whole else ()),
        _or(study_figures.vae_folds(record), "No trial was evaluated to the end."),
        *_if(prior_samples({name: drawn[:_SAMPLES] for name, drawn in vae.evidence.items()})),
    )


def _links(
    record: StudyRecord, keys: tuple[str, ...], kinds: tuple[str, ...]
) -> tuple[Block, ...]:
    """To the reports of these kinds of these parts."""
    items = []
    for part in (record.parts[key] for key in keys if key in record.parts):
        whose = f": {part.part.short}" if len(keys) > 1 else ""
        for kind in kinds:
            if kind in part.pages:
                page, name = escape(part.pages[kind]), escape(_PAGE_NAMES[kind] + whose)
                items.append(f'<li><a href="{page}">{name}</a></li>')
    return (
        (Raw(f'{_LINKS}<ul class="links" aria-label="Reports">{"".join(items)}</ul>'),)
        if items
        else ()
    )


def _or(block: Block | None, sentence: str) -> Block:
    return block if block is not None else Paragraph(sentence)


def _if(block: Block | None) -> tuple[Block, ...]:
    return (block,) if block is not None else ()


# --- flaws, and how to do it again ---------------------------------------------------------------


def _flaws(record: StudyRecord) -> Table:
    ae = record.parts.get("ae")
    folds = ", ".join(f"{loss:.2f}" for loss in _vae_folds(record)) or _NONE
    pruned = scales = _NONE
    if ae is not None:
        spent, whole = ae.fold_epochs
        pruned = (
            f"{ae.given_up} of {plural(len(ae.trials), 'trial')} given up: {spent} fold-epochs"
            f" instead of {whole}"
        )
        training, validation = ae.metric("train_mse"), ae.metric("val_mse")
        scales = (
            f"winner's MSE: {digits(training)} in training, {digits(validation)} in validation"
        )
    arms = _NONE
    if record.comparison is not None:
        repeats = plural(record.comparison.repeats, "repeat")
        arms = (
            f"{len(record.comparison.arms)} ranges, {repeats} ×"
            f" {plural(record.comparison.splits, 'fold')}, paired"
        )
    runs = sum(len(part.trials) * (1 + part.spec.folds.splits) for part in record.parts.values())
    revision = str(record.environment.get("git_revision") or "")[:12]
    kept = f"some {runs} runs in MLflow" + (f", of revision {revision}" if revision else "")
    rows = (
        (
            (
                "The VAE's validation loss was the same number in every epoch and fold: the wrong"
                " model was evaluated."
            ),
            (
                "A trial's figures come from the model that it trained; tests hold that training"
                " and the fold change them."
            ),
            f"folds: {folds}",
        ),
        (
            "One learning-rate range served Adam and SGD, with no figure and no repeats.",
            (
                "Each has a range of its own and the same budget; the best of each is repeated on"
                " fresh folds and seeds."
            ),
            arms,
        ),
        (
            "Hopeless configurations trained every fold to the end.",
            "Folds advance together, and ASHA gives the worse configurations up.",
            pruned,
        ),
        (
            "Training losses were sums, validation losses means.",
            "Both are means over images, from the same code.",
            scales,
        ),
        (
            "Nothing outlived the notebook; no run could be resumed or repeated.",
            (
                "Every trial and fold is recorded with its seed, file, data digest and"
                " environment, and can be resumed."
            ),
            kept,
        ),
    )
    return Table(
        "What went wrong, and what is done instead", ("the study", "here", "in this run"), rows
    )


def _again(record: StudyRecord) -> tuple[Block, ...]:
    sets = " ".join(f"--set '{override}'" for override in record.journal.overrides)
    failed = {
        part.title: record.parts[part.key].failed for part in PARTS if part.key in record.parts
    }
    told = [
        f"{title}: {plural(count, 'failed trial')}" for title, count in failed.items() if count
    ]
    environment = "\n".join(
        f"{name}: {value}"
        for name, value in record.environment.items()
        if not isinstance(value, dict | list)
    )
    packages = record.environment.get("packages", {})
    listed = "\n".join(f"{name} {version}" for name, version in packages.items() if version)
    command = f"foldrace study {sets}".strip()
    return (
        *((Paragraph("; ".join(told) + "."),) if told else ()),
        Code(
            "The command, the machine and the versions", f"{command}\n\n{environment}\n\n{listed}"
        ),
    )
