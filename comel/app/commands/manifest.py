"""``comel manifest``: from a downloaded cohort to the CSV that the other commands read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, print_json

if TYPE_CHECKING:
    from comel.cohort.sources.common import Cohort

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build a cohort's manifest from its download.")

Root = Annotated[Path, typer.Argument(help="Folder of the download.")]
Out = Annotated[Path | None, typer.Option(help="CSV to write; default ROOT/manifest.csv.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Folds = Annotated[int | None, typer.Option(min=2, help="Also assign the slides to this many patient-disjoint folds.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random assignment.")]
OneTask = Annotated[str | None, typer.Option(help="Name of the task, if ROOT holds only one.")]


@app.command(epilog="Example: comel manifest camelyon16 /data/CAMELYON16 --out camelyon16.csv")
def camelyon16(
    root: Root,
    out: Out = None,
    task: Annotated[str, typer.Option(help="Name of the task.")] = "camelyon16",
    val_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the training set for validation.")] = 0.15,
    exclude: Annotated[list[str] | None, typer.Option(help="Slide to leave out; may be repeated.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Another table of labels, to compare with.")] = None,
    folds: Folds = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """CAMELYON16; the official test set is the test split."""
    from comel.cohort.sources import camelyon16 as cohort

    found = cohort.build(root, task=task, val_fraction=val_fraction, seed=seed, exclude=exclude or (), labels=labels)
    _write(found, root, out, folds, seed, force, as_json)


@app.command(epilog="Example: comel manifest paip /data/PAIP --out paip.csv")
def paip(
    root: Root,
    out: Out = None,
    task: OneTask = None,
    positive: Annotated[str, typer.Option(help="Label of slides with a tumour.")] = "tumor",
    negative: Annotated[str, typer.Option(help="Label of slides without one, and name of their folder.")] = "normal",
    labels: Annotated[Path | None, typer.Option(help="Table of slides and labels, instead of folders.")] = None,
    suffix: Annotated[
        list[str] | None, typer.Option(help="Ending after the slide's name in its annotation's, such as _viable; repeatable.")
    ] = None,
    annotations: Annotated[bool, typer.Option("--annotations/--no-annotations", help="Whether annotations are used.")] = True,
    folds: Folds = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """PAIP challenges, one folder per organ; the folder's name is the task."""
    from comel.cohort.sources import paip as cohort

    found = cohort.build(
        root,
        task=task,
        positive=positive,
        negative=negative,
        labels=labels,
        suffixes=suffix or ("",),
        annotated=annotations,
    )
    _write(found, root, out, folds, seed, force, as_json)


@app.command(epilog="Example: comel manifest tcga /data/TCGA --sample-sheet gdc_sample_sheet.tsv --subtypes clinical.tsv")
def tcga(
    root: Root,
    out: Out = None,
    gdc_manifest: Annotated[Path | None, typer.Option(help="GDC manifest: the slides to list.")] = None,
    sample_sheet: Annotated[Path | None, typer.Option(help="GDC sample sheet: the slides' projects.")] = None,
    subtypes: Annotated[list[Path] | None, typer.Option(help="Clinical table with subtypes; may be repeated.")] = None,
    subtype_column: Annotated[str | None, typer.Option(help="The table's subtype column, if it has an unusual name.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="NSCLC, BRCA, RCC or ESCA; may be repeated; default all.")] = None,
    folds: Folds = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """TCGA subtyping of lung, breast, kidney and oesophagus, diagnostic slides only."""
    from comel.cohort.sources import tcga as cohort

    found = cohort.build(
        root,
        gdc_manifest=gdc_manifest,
        sample_sheet=sample_sheet,
        subtypes=subtypes or (),
        subtype_column=subtype_column,
        tasks=task or (),
    )
    _write(found, root, out, folds, seed, force, as_json)


@app.command(epilog="Example: comel manifest folder /data/mine --patient-regex '^([^_]+)' --folds 5")
def folder(
    root: Root,
    out: Out = None,
    task: OneTask = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Matches the patient in a slide's name; the first group counts.")
    ] = None,
    folds: Folds = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Your own cohort: ROOT/TASK/LABEL/slide, or ROOT/LABEL/slide with --task."""
    from comel.cohort.sources import folder as cohort

    found = cohort.build(root, task=task, patient_regex=patient_regex)
    _write(found, root, out, folds, seed, force, as_json)


def _write(cohort: Cohort, root: Path, out: Path | None, folds: int | None, seed: int, force: bool, as_json: bool) -> None:
    from comel.cohort.sources.common import summary, write_manifest

    out = out or root / "manifest.csv"
    for warning in cohort.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if cohort.left_out:
        counted = ", ".join(f"{count} {kind}" for kind, count in cohort.left_out.items())
        typer.echo(f"left out, not slides: {counted}", err=True)
    manifest, start = write_manifest(cohort, root, out, folds=folds, seed=seed, force=force)
    counts = summary(manifest)
    if as_json:
        print_json(
            {
                "manifest": out,
                "root": start,
                "slides": len(manifest.rows),
                "annotated": sum(row.annotation is not None for row in manifest.rows),
                "tasks": counts,
                "warnings": cohort.warnings,
                "left_out": cohort.left_out,
            }
        )
        return
    for task, labels in counts.items():
        for label, splits in labels.items():
            shares = ", ".join(f"{split} {count}" for split, count in splits.items() if split != "-")
            typer.echo(f"{task} {label}: {sum(splits.values())} slides{f' ({shares})' if shares else ''}")
    typer.echo(f"manifest: {out}, {len(manifest.rows)} slides")
    if start != out.absolute().parent:
        typer.echo(f"its paths start from {start}: add --root {start} to comel extract")
