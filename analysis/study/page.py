"""The page of the reference study, with its results beside those of the original study."""

from __future__ import annotations

from foldrace.analysis.reports.comparison.reconstructions import (
    reconstructions as optimizer_reconstructions,
)
from foldrace.analysis.reports.comparison.standings import standings
from foldrace.analysis.reports.page import (
    Block,
    Code,
    Paragraph,
    Raw,
    Report,
    Section,
    Table,
    render,
)
from foldrace.analysis.reports.vae.pictures import prior_samples
from foldrace.analysis.study.figures import (
    against_linear,
    latent_map,
    reconstructions,
    vae_folds,
    wall_clock,
)
from foldrace.analysis.study.plan import PARTS
from foldrace.analysis.study.record import StudyRecord
from foldrace.analysis.study.results import (
    REFERENCE_MSE,
    flaw_rows,
    study_results,
    vae_fold_losses,
    vae_test_terms,
)
from foldrace.analysis.text import plural
from foldrace.search.text import clock

__all__ = ["build_page"]

_KIND = "index"
_SAMPLES = 40
_PAGE_NAMES = {
    "sweep": "its sweep",
    "latent": "latent space",
    "vae": "the VAE's report",
    "optimizers": "the whole comparison",
}
_ABOUT = (
    "In December 2021 a small study in a single notebook trained a convolutional autoencoder and a"
    " variational one on FashionMNIST without labels, searched their learning rate with Optuna"
    " over three folds, compared Adam with SGD, and looked at the latent space with t-SNE. This"
    " page repeats all of it, as sweeps."
)
_PUBLISHED = (
    "The published loss on this data, squared error + KL with a code of 8 and a larger network, is"
    " 23.95 after 100 epochs of Adam at 1e-3, and 22.77 after tuning (DeepOBS fmnist_vae; Schmidt"
    " et al., 2021). Here: {epochs}, as in the study."
)


def build_page(record: StudyRecord) -> Report:
    """The page of a study, however far it has come."""
    results = Table(
        "What was measured",
        ("metric", "the study", "here"),
        tuple(study_results(record)),
        _data_sentence(record),
    )
    flaws = Table(
        "What went wrong, and what is done instead",
        ("the study", "here", "in this run"),
        tuple(flaw_rows(record)),
    )
    autoencoders = _present(against_linear(record), reconstructions(record))
    no_autoencoder = Paragraph("No autoencoder has been refitted yet.")
    sections = (
        Section("Results beside the study's", (Paragraph(_ABOUT), results)),
        Section(
            "The autoencoder",
            (*_links(record, ("ae", "ae4"), ("sweep",)), *(autoencoders or (no_autoencoder,))),
        ),
        Section("Adam against SGD", _optimizers(record)),
        Section("The latent space", _latent(record)),
        Section("The variational autoencoder", _vae(record)),
        Section("Five flaws, and what is done instead", (flaws,)),
        Section("What it took", _cost(record)),
    )
    title = "The reference study, done again"
    return Report(_KIND, title, _lead(record), _facts(record), sections)


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


# --- lead and facts ------------------------------------------------------------------------------


def _lead(record: StudyRecord) -> str:
    sentences = []
    for size, part in record.autoencoders[-1:]:
        compared = [f"the study: {REFERENCE_MSE:.4f}"] if record.whole else []
        if size in record.linear:
            compared.append(f"{size} principal components: {record.linear[size].mse:.4f}")
        error = f"the autoencoder's test MSE is {part.test['mse']:.4f}"
        against = f" ({'; '.join(compared)})" if compared else ""
        sentences.append(f"With a code of {size} numbers {error}{against}.")
    if record.verdict is not None:
        sentences.append(record.verdict.lead)
    if len(set(vae_fold_losses(record))) > 1:
        sentences.append(
            "The VAE's validation loss, one constant in the study, differs from fold to fold."
        )
    return " ".join(sentences) or "The study has not come far enough for any result."


def _facts(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    facts = [
        (f"test MSE, code of {size}", f"{part.test['mse']:.5f}")
        for size, part in reversed(record.autoencoders)
    ]
    if record.verdict is not None:
        facts.append(("better optimizer", record.verdict.winner or "none declared"))
    if terms := vae_test_terms(record):
        facts.append(("VAE: squared error + KL", f"{sum(terms):.2f}"))
    raced = [part for part in record.parts.values() if part.spec.scheduler.kind != "fifo"]
    if raced:
        pruned, total = sum(part.pruned for part in raced), sum(len(part.trials) for part in raced)
        facts.append(("pruned trials", f"{pruned} of {total}"))
    return (*facts, ("time in all", clock(record.progress.total)))


def _data_sentence(record: StudyRecord) -> str:
    images = f"{record.samples:,} training and {record.test_samples:,} test images"
    if record.whole:
        return f"FashionMNIST, {images}, as in the study."
    return (
        f"Here: {images} of {record.dataset}. The study had the 60,000 and 10,000 of FashionMNIST,"
        " so its results are shown for orientation only."
    )


# --- sections ------------------------------------------------------------------------------------


def _optimizers(record: StudyRecord) -> tuple[Block, ...]:
    comparison, verdict = record.comparison, record.verdict
    if comparison is None or verdict is None:
        return (Paragraph("The optimizers have not been compared yet."),)
    images = optimizer_reconstructions(comparison, "optimizer-reconstructions")
    return (
        Paragraph(verdict.lead),
        *_links(record, ("optimizers",), ("optimizers", "sweep")),
        *_present(standings(comparison, verdict), images),
    )


def _latent(record: StudyRecord) -> tuple[Block, ...]:
    maps = _present(*(latent_map(part) for part in record.parts.values()))
    missing = Paragraph("No latent space has been drawn yet.")
    links = _links(record, ("ae", "ae4", "vae"), ("latent",))
    return (*links, *(maps[:1] or (missing,)))


def _vae(record: StudyRecord) -> tuple[Block, ...]:
    vae = record.parts.get("vae")
    if vae is None:
        return (Paragraph("The variational autoencoder has not been trained yet."),)
    published = Paragraph(_PUBLISHED.format(epochs=plural(vae.spec.epochs, "epoch")))
    samples = {name: drawn[:_SAMPLES] for name, drawn in vae.evidence.items()}
    return (
        *_links(record, ("vae",), ("vae", "sweep")),
        *((published,) if record.whole else ()),
        vae_folds(record) or Paragraph("No trial has completed."),
        *_present(prior_samples(samples)),
    )


def _cost(record: StudyRecord) -> tuple[Block, ...]:
    """The time, the failed trials, and what is needed to run the study again."""
    overrides = [f"--set '{override}'" for override in record.progress.overrides]
    command = " ".join(["foldrace study", *overrides])
    failed = [
        f"{part.title}: {plural(record.parts[part.key].failed, 'failed trial')}"
        for part in PARTS
        if part.key in record.parts and record.parts[part.key].failed
    ]
    environment = [
        f"{name}: {value}"
        for name, value in record.environment.items()
        if not isinstance(value, dict | list)
    ]
    packages = record.environment.get("packages", {})
    versions = [f"{name} {version}" for name, version in packages.items() if version]
    setup = "\n\n".join([command, "\n".join(environment), "\n".join(versions)])
    return (
        wall_clock(record) or Paragraph("Nothing has run yet."),
        *([Paragraph("; ".join(failed) + ".")] if failed else []),
        Code("The command, the environment and the versions", setup),
    )


def _links(
    record: StudyRecord, keys: tuple[str, ...], kinds: tuple[str, ...]
) -> tuple[Block, ...]:
    """Links to the reports of these kinds of these parts; empty without such reports."""
    parts = [record.parts[key] for key in keys if key in record.parts]
    links = [
        (part.pages[kind], _PAGE_NAMES[kind] + (f": {part.part.short}" if len(keys) > 1 else ""))
        for part in parts
        for kind in kinds
        if kind in part.pages
    ]
    return (Raw(render("links.html.j2", links=links)),) if links else ()
