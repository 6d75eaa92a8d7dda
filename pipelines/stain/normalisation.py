"""Stain normalisation: a slide's staining is measured once, and every tile is normalised to that of a reference.

It is measured on tiles from the whole slide and not tile by tile, because a tile of only fat or lymphocytes does not have
both stains, and because two tiles that look alike on the slide must look alike afterwards. torchstain measures; the
transformation follows from the two measurements. The only file that uses torchstain.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from comel.base.files import sha256_of_file
from comel.errors import ConfigError, SlideError
from pipelines.stain.staining import MacenkoStaining, Method, ReinhardStaining

__all__ = ["measure_staining", "normaliser", "read_reference"]

MIN_STAINED_PIXELS = 10_000
"""Fewer stained pixels than this do not measure a slide: a sixth of a tile of 256 px."""

_LIGHT = 240.0  # torchstain's value for unabsorbed light
_STAINED = 0.15  # optical density (natural logarithm) from which a pixel counts as stained, as in torchstain
_MIN_ANGLE = 0.05  # radians between the two stains' directions
_MAX_EOSIN_RED = 0.5  # of a unit vector: eosin transmits red light; blood, ink or a second blue do not
_MAX_PIXELS = 1 << 20
_DIGITS = 4  # digits on which different machines agree


def measure_staining(pixels: np.ndarray, method: Method, where: str) -> MacenkoStaining | ReinhardStaining:
    """The staining of pixels, without glass.

    Args:
        pixels: (N, 3) uint8 RGB.
        method: the measurement method.
        where: the pixels' origin, for messages.

    Raises:
        SlideError: fewer than :data:`MIN_STAINED_PIXELS` are stained, or the two stains cannot be separated (stage "stain").
    """
    remedy = "extract it without stain normalisation, into a separate folder, or leave it out"
    density = _optical_density()[pixels]  # (N, 3)
    stained = pixels[(density >= _STAINED).all(axis=1) if method == "macenko" else density.max(axis=1) >= _STAINED]
    if len(stained) < MIN_STAINED_PIXELS:
        what = f"{where}: {len(stained)} stained pixels are too few to measure its staining ({MIN_STAINED_PIXELS} are needed)"
        raise SlideError(what, remedy, stage="stain")
    staining = _macenko(stained) if method == "macenko" else _reinhard(stained)
    if staining is None:
        what = f"{where}: hematoxylin and eosin cannot be separated (another staining, or much blood or ink)"
        raise SlideError(what, "--stain-normalisation reinhard needs no stains, for the whole cohort", stage="stain")
    return staining


def normaliser(
    slide: MacenkoStaining | ReinhardStaining, reference: MacenkoStaining | ReinhardStaining
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that normalises a slide's tiles (B, H, W, 3) uint8 RGB to the reference's staining, by one method.

    Macenko: concentrations C of a pixel's optical density OD = S C are scaled by the ratio of the strengths and recombined with
    the reference's stains, so that OD' = R diag(r / s) S⁺ OD, one matrix for the whole slide. Reinhard: each of L, a and b is
    shifted and scaled from the slide's mean and deviation to the reference's; glass is unchanged.
    """
    if isinstance(slide, MacenkoStaining) and isinstance(reference, MacenkoStaining):
        return _macenko_normaliser(slide, reference)
    assert isinstance(slide, ReinhardStaining)
    assert isinstance(reference, ReinhardStaining)
    return _reinhard_normaliser(slide, reference)


def read_reference(image: Path | None, method: Method) -> MacenkoStaining | ReinhardStaining:
    """The reference staining.

    Args:
        image: a PNG, JPEG or plain TIFF of stained tissue; None for a built-in reference: Macenko's published stains, and
            for Reinhard the colours of a made-up tissue stained with them.
        method: the measurement method.

    Raises:
        ConfigError: the image cannot be read or used.
    """
    if image is None:
        return _built_in(method)
    from pipelines.slides.plain_image import PlainImage

    try:
        whole = PlainImage(Path(image))
        pixels = np.asarray(whole.read_region((0, 0), 0, whole.level_dimensions[0]))[..., :3].reshape(-1, 3)
        staining = measure_staining(pixels[:: max(1, len(pixels) // _MAX_PIXELS)], method, str(image))
        return staining.model_copy(update={"image": sha256_of_file(Path(image))})
    except (SlideError, OSError) as error:
        what = error.what if isinstance(error, SlideError) else f"{image}: {error.strerror or error}"
        raise ConfigError(
            f"stain reference {what}", "give a PNG, JPEG or TIFF image of H&E tissue, without much glass"
        ) from None


def _macenko(stained: np.ndarray) -> MacenkoStaining | None:
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    measured: Any = NumpyMacenkoNormalizer()
    try:
        with np.errstate(all="ignore"):
            measured.fit(stained[None], Io=_LIGHT, beta=_STAINED)  # an image of one row
    except (np.linalg.LinAlgError, IndexError, ValueError):
        return None
    return _macenko_staining(measured.HERef, measured.maxCRef)


def _macenko_staining(stains: np.ndarray, strengths: np.ndarray) -> MacenkoStaining | None:
    numbers = np.concatenate([np.ravel(stains), np.ravel(strengths)])
    if not np.isfinite(numbers).all() or (np.asarray(strengths) <= 10.0**-_DIGITS).any():
        return None
    hematoxylin, eosin = (_rounded(stains[:, column]) for column in (0, 1))
    cosine = np.dot(hematoxylin, eosin) / (np.linalg.norm(hematoxylin) * np.linalg.norm(eosin))
    if np.arccos(np.clip(abs(cosine), 0, 1)) < _MIN_ANGLE or eosin[0] > _MAX_EOSIN_RED:
        return None
    return MacenkoStaining(hematoxylin=hematoxylin, eosin=eosin, strengths=_rounded(strengths))


def _reinhard(stained: np.ndarray) -> ReinhardStaining | None:
    from torchstain.numpy.normalizers import NumpyReinhardNormalizer

    measured: Any = NumpyReinhardNormalizer()
    measured.fit(stained[None])
    if not (np.asarray(measured.target_stds) > 0.01).all():
        return None
    return ReinhardStaining(means=_rounded(measured.target_means), spreads=_rounded(measured.target_stds))


def _macenko_normaliser(slide: MacenkoStaining, reference: MacenkoStaining) -> Callable[[np.ndarray], np.ndarray]:
    seen, wanted = (np.array([staining.hematoxylin, staining.eosin]).T for staining in (slide, reference))  # (3, 2)
    ratio = np.diag(np.array(reference.strengths) / np.array(slide.strengths))
    matrix = (wanted @ ratio @ np.linalg.pinv(seen)).T.astype(np.float32)  # (3, 3), for densities in rows
    densities = _optical_density()

    def normalise(tiles: np.ndarray) -> np.ndarray:
        light = np.exp(-(densities[tiles] @ matrix)) * np.float32(_LIGHT)
        normalised: np.ndarray = np.clip(np.rint(light), 0, 255).astype(np.uint8)
        return normalised

    return normalise


def _reinhard_normaliser(slide: ReinhardStaining, reference: ReinhardStaining) -> Callable[[np.ndarray], np.ndarray]:
    import cv2

    scale = np.divide(reference.spreads, slide.spreads).astype(np.float32)
    shift = (np.array(reference.means) - np.array(slide.means) * scale).astype(np.float32)
    densities = _optical_density()

    def normalise(tiles: np.ndarray) -> np.ndarray:
        column = tiles.reshape(-1, 1, 3)
        lab = cv2.cvtColor(column.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        moved = cv2.cvtColor(lab * scale + shift, cv2.COLOR_LAB2RGB) * 255
        # Between glass and tissue the change sets in gradually, so that no new edge appears.
        share = np.clip(densities[column].max(axis=-1, keepdims=True) / _STAINED, 0, 1)
        normalised: np.ndarray = (
            np.clip(np.rint(column + share * (moved - column)), 0, 255).astype(np.uint8).reshape(tiles.shape)
        )
        return normalised

    return normalise


def _built_in(method: Method) -> MacenkoStaining | ReinhardStaining:
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    published: Any = NumpyMacenkoNormalizer()
    if method == "macenko":
        staining: MacenkoStaining | ReinhardStaining | None = _macenko_staining(published.HERef, published.maxCRef)
    else:
        draw = np.random.default_rng(0)
        hematoxylin, eosin = draw.beta(1.2, 3.0, 100_000), draw.beta(2.5, 3.0, 100_000)
        concentrations = np.stack([hematoxylin, eosin], axis=1) * published.maxCRef  # (N, 2)
        tissue = np.exp(-concentrations @ published.HERef.T) * _LIGHT
        staining = _reinhard(np.rint(tissue).astype(np.uint8))
    assert staining is not None
    return staining


def _optical_density() -> np.ndarray:
    """Optical density (natural logarithm) of each of the 256 values of a channel, as torchstain computes it."""
    density: np.ndarray = -np.log((np.arange(256, dtype=np.float32) + 1) / np.float32(_LIGHT))
    return density


def _rounded(values: Any) -> Any:
    return tuple(round(float(value), _DIGITS) for value in np.ravel(values))
