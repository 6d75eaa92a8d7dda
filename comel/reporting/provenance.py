"""The sections of a page on a run's provenance: data, feature contract, checksums, settings, software."""

from __future__ import annotations

from comel.reporting.blocks import Block, Facts, Fold, Table, note
from comel.reporting.cohort import SPLITS, cohort, packages, unreadable_cohort
from comel.reporting.collect import Report
from comel.reporting.tables import MISSING, count

__all__ = ["data", "settings", "software"]


def data(report: Report) -> list[Block]:
    """Slides and patients of each split, the manifest with its checksum, and the feature contract."""
    blocks: list[Block] = []
    rows = cohort(report)
    if rows:
        body = []
        for row in rows:
            pairs = zip(row.slides, row.patients or (None,) * len(SPLITS), strict=True)
            cells = [f"{count(slides)} / {count(patients)}" if row.patients else count(slides) for slides, patients in pairs]
            body.append((row.task, row.label or "all labels", *cells))
        blocks.append(Table(["task", "label", *SPLITS], body, "Slides / patients"))
    why = unreadable_cohort(report)
    blocks += [note(why)] if why else []
    checksum = f"{report.data.checksum} (of the file as it is now)" if report.data.checksum else "the file does not exist"
    total = sum(sum(row.slides) for row in rows)
    pairs_of_facts: list[tuple[str, object]] = [
        ("manifest", report.data.manifest or MISSING),
        ("SHA-256", checksum),
        ("bags", f"{report.data.bags or MISSING}, {count(total)} slides in use"),
    ]
    if report.newest is not None:
        contract = report.newest.feature_contract
        pairs_of_facts += [
            ("encoder", contract.encoder or "not stated"),
            ("SHA-256 of its weights", contract.weights_hash or "not stated"),
            ("features", f"{contract.dimension} per tile"),
            ("tiles", f"{contract.tile_size or '?'} px at {contract.mpp or '?'} µm per px"),
        ]
    return [*blocks, Facts(pairs_of_facts)]


def settings(report: Report) -> list[Block]:
    """``config.yaml`` verbatim, and the checksums of the newest version's files."""
    blocks: list[Block] = [Fold("config.yaml", text=report.config_text)]
    if report.newest is not None and report.checksums:
        title = f"SHA-256 of the files of version {report.newest.version}"
        blocks.append(Fold(title, [Facts(list(report.checksums.items()))]))
    return blocks


def software(report: Report) -> list[Block]:
    """The version that trained the run, and the software that wrote the report."""
    trained: list[tuple[str, object]] = []
    if report.newest is not None:
        made = f"{report.newest.created}, comel {report.newest.comel_version}"
        trained = [("run", report.newest.run), ("version", report.newest.version), ("published", made)]
    return [Facts([*trained, *((f"{name}, of this report", version) for name, version in packages())])]
