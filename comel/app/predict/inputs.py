"""The inputs of ``comel predict``: slides, bags, folders of bags and manifests, as one list of slides and their cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from comel.app.schemas import PredictOptions
from comel.errors import BagError, ComelError, ConfigError

__all__ = ["Input", "by_case", "find_inputs"]

_BAG_SUFFIXES = {".h5", ".hdf5", ".pt", ".pth"}


@dataclass(frozen=True)
class Input:
    """One slide to predict.

    Attributes:
        name: the slide's name; its files are named after it.
        bag: its features, or None if they are extracted from ``slide``.
        slide: its image, or None if there is none.
        mpp: micrometres per pixel of level 0, overriding the slide's own.
        manifest: the manifest that it is a row of.
        case_id: its case, as the manifest states it.
        problem: why it cannot be predicted.
    """

    name: str
    bag: Path | None = None
    slide: Path | None = None
    mpp: float | None = None
    manifest: Path | None = None
    case_id: str | None = None
    problem: ComelError | None = None

    @property
    def case(self) -> str:
        """The unit of one bag within its manifest: the case, otherwise the slide."""
        return self.case_id or self.name


def find_inputs(paths: Sequence[Path], options: PredictOptions) -> list[Input]:
    """Every slide to predict, in order, under distinct names.

    Raises:
        ComelError: there is no input, a path or an option does not fit, a manifest or a folder cannot be used, or two inputs
            would write the same files.
    """
    if not paths:
        raise ConfigError("nothing to predict", "give slides, bags or manifests")
    if options.slide is not None:
        if len(paths) != 1 or not _is_bag(paths[0]):
            raise ConfigError("--slide belongs to a single bag", "give one .h5 or .pt file with it")
        if not options.slide.exists():
            raise ConfigError(f"{options.slide}: no such file", "check --slide")
    found: dict[str, Path] = {}
    inputs = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file", "check the path")
        if not path.is_file() and not path.is_dir():
            raise ConfigError(f"{path}: not a file but a pipe or a device", "save it as a file")
        for entry in _expand(path, options):
            if entry.name in found:
                raise ConfigError(f"{found[entry.name]} and {path} would both be '{entry.name}'", "use two folders")
            if options.mpp is not None and (entry.manifest or entry.bag):
                remedy = "state it in the column 'mpp'" if entry.manifest else "leave it out: a bag has its own"
                raise ConfigError(f"--mpp applies to slides, and has no effect on {path}", remedy)
            found[entry.name] = path
            inputs.append(entry)
    return inputs


def by_case(inputs: Sequence[Input]) -> list[list[Input]]:
    """The inputs that form one bag: the rows of a manifest with the same case."""
    cases: dict[tuple[Path | None, str], list[Input]] = {}
    for entry in inputs:
        cases.setdefault((entry.manifest, entry.case), []).append(entry)
    return list(cases.values())


def _is_bag(path: Path) -> bool:
    return path.suffix.lower() in _BAG_SUFFIXES and not path.is_dir()


def _expand(path: Path, options: PredictOptions) -> Iterator[Input]:
    if path.is_dir():
        yield from _of_folder(path, options)
    elif path.suffix.lower() == ".csv":
        yield from _of_manifest(path, options)
    elif _is_bag(path):
        yield Input(path.stem, bag=path, slide=options.slide)
    else:
        yield Input(path.stem, slide=path, mpp=options.mpp)


def _of_folder(folder: Path, options: PredictOptions) -> Iterator[Input]:
    """A DICOM slide, or the bags of the folder."""
    from comel.bags.foreign import feature_files
    from pipelines.slides.dicom_files import dicom_files

    if dicom_files(folder):
        yield Input(folder.absolute().name, slide=folder, mpp=options.mpp)
        return
    try:
        files = feature_files([folder])
    except BagError as error:
        raise BagError(error.what, f"{error.remedy}; or the folder of one DICOM slide, or slides' own files") from None
    yield from (Input(file.stem, bag=file) for file in files)


def _of_manifest(path: Path, options: PredictOptions) -> Iterator[Input]:
    from comel.bags.foreign import bag_path
    from comel.cohort.manifest import read_manifest

    for row in read_manifest(path, root=options.root, names=None).rows:
        bag, problem = None, None
        if options.bags is not None:
            try:
                bag = bag_path(options.bags, row.slide_id)
            except ComelError as error:
                problem = error
        there = row.path if bag is None or row.path.exists() else None
        yield Input(row.slide_id, bag, there, row.mpp, path, row.case_id, problem)
