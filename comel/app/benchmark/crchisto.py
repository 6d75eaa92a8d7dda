"""The suite ``crchisto``: real H&E cells of 60 patients, domain-incremental over stainings.

A patient is a bag, a 27 px cell patch (CRCHistoPhenotypes, Sirinukunwattana et al., IEEE TMI 35:5, 2016) an instance,
encoded at 96 px. Each patient is in one staining domain, drawn by the seed; cells of all but the first domain are re-stained.
Every patient is tested in one of five folds, so that the test patients of all folds together are all patients. The archive does
not say where a cell lies; cells are laid out in the order of the file so that none touches another.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from comel.app.benchmark.storage import MadeBag, write_stream
from comel.bags.contract import FeatureContract
from comel.base.numbers import MOST_SEED
from comel.base.registry import nearest
from comel.errors import ConfigError

__all__ = ["CrchistoSettings", "make_crchisto"]

_SIDE = 96
_PATCH_MPP = 0.55


class CrchistoSettings(BaseModel):
    """Settings of :func:`make_crchisto`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, le=MOST_SEED, description="seed of domains and folds")
    stains: tuple[str, ...] = Field(("as-scanned", "h_heavy", "light"), min_length=1, description="domains, in order")
    folds: int = Field(5, ge=2, description="test folds")
    encoder: str = Field("efficientnet-lite0", description="patch encoder")

    @field_validator("stains")
    @classmethod
    def _known_once(cls, stains: tuple[str, ...]) -> tuple[str, ...]:
        from pipelines.stain.staining import STAINS

        for stain in stains:
            if stain not in STAINS:
                raise ValueError(f"no stain '{stain}', {nearest(stain, list(STAINS))}")
        if len(set(stains)) < len(stains):
            raise ValueError("a stain is named twice")
        return stains


def make_crchisto(
    folder: Path, archive: Path, settings: CrchistoSettings, advance: Callable[..., None] = lambda steps=1, text="": None
) -> Path:
    """Encode the cells and write the bags and the manifest; returns the manifest, which is written last.

    Args:
        folder: the folder to write.
        archive: npz with ``images`` (N, H, W, 3) uint8, ``patient_id`` (N,) and ``is_cancerous`` (N,).
        settings: the settings of the draw.
        advance: called after each patient.

    Raises:
        ConfigError: the archive lacks these arrays, or has too few patients for the folds and stains.
    """
    from pipelines.patch_encoders import load_encoder

    images, patients, positive = _read(archive)
    names = np.unique(patients)
    labels = np.array([positive[patients == name].max() for name in names])
    fewest = min(int((labels == label).sum()) for label in (0, 1))
    if fewest < max(settings.folds, len(settings.stains)):
        raise ConfigError(
            f"{archive}: {fewest} patients with or without cancerous cells, for {settings.folds} folds and "
            f"{len(settings.stains)} stains",
            "lower make.folds, or name fewer make.stains",
        )
    encoder = load_encoder(settings.encoder)
    encoder.input_size = _SIDE
    mpp = _PATCH_MPP * images.shape[1] / _SIDE
    contract = FeatureContract(encoder.name, encoder.weights_hash, encoder.dimension, mpp, _SIDE)
    cells = (images, patients, positive)
    return write_stream(folder, _bags(cells, names, labels, settings, encoder.encode, advance), contract)


def _read(archive: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) uint8, patients (N,) and labels (N,) of the cells, 1 cancerous."""
    try:
        with open(archive, "rb") as stream, np.load(stream, allow_pickle=False) as content:
            images, patients, positive = content["images"], content["patient_id"], content["is_cancerous"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 (N, height, width, 3)")
        if patients.shape != (len(images),) or positive.shape != (len(images),) or not np.isin(positive, (0, 1)).all():
            raise ValueError("patient_id and is_cancerous, 0 or 1, are not one per cell")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{archive}: not the cells' archive ({error})", "give the .npz of CRCHistoPhenotypes cells") from None
    return images, patients, positive.astype(np.int8)


def _bags(
    cells: tuple[np.ndarray, np.ndarray, np.ndarray],
    names: np.ndarray,
    labels: np.ndarray,
    settings: CrchistoSettings,
    encode: Callable[[np.ndarray], np.ndarray],
    advance: Callable[..., None],
) -> Iterator[MadeBag]:
    from PIL import Image
    from sklearn.model_selection import StratifiedKFold

    from pipelines.stain.matrix import restain

    images, patients, positive = cells
    domain = _dealt(names, labels, len(settings.stains), settings.seed)
    fold = np.zeros(len(names), int)
    splitter = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    for number, (_, test) in enumerate(splitter.split(names, labels * len(settings.stains) + domain)):
        fold[test] = number
    for stain_number, stain in enumerate(settings.stains):  # a manifest's tasks come in the order of their first row
        for index in np.flatnonzero(domain == stain_number):
            mine = np.flatnonzero(patients == names[index])
            pictures = [Image.fromarray(cell) for cell in restain(images[mine], stain)]
            tiles = np.stack([np.asarray(cell.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)) for cell in pictures])
            features = np.concatenate([encode(tiles[i : i + 256]) for i in range(0, len(tiles), 256)])
            place = np.arange(len(mine))
            grid = np.stack([place, 2 * place], axis=1)
            name = f"patient-{names[index]}"
            yield MadeBag(name, stain, "", features, grid, positive[mine], patient=str(names[index]), fold=int(fold[index]))
            advance(1, text=name)


def _dealt(names: np.ndarray, labels: np.ndarray, domains: int, seed: int) -> np.ndarray:
    """(n,) a domain for each patient, as even as possible within the patients of either label."""
    draw = np.random.default_rng([seed, 2])
    result = np.zeros(len(names), int)
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        result[members] = np.arange(len(members)) % domains
    return result
