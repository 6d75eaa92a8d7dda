"""The settings of an extraction, and the identity of its result."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from comel.base.kinds import Written
from comel.base.settings import Mpp, comma_separated
from comel.base.units import MPP_RANGE, Precision
from pipelines.stain.staining import Stain, StainReference

if TYPE_CHECKING:
    from pipelines.patch_encoders.base import PatchEncoder

__all__ = ["ExtractSettings", "content_settings"]

Ink = Literal["red", "green", "blue", "black"]

_SAME_RATIO = 1e-6


class ExtractSettings(BaseModel):
    """What is extracted from a slide, and how. The same names are options of ``comel extract`` and keys of its YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = Field(
        "efficientnet-lite0",
        description="efficientnet-lite0, uni, ... (docs/encoders.md), NAME:FOLDER, hf:<name or folder>, file.py:Class",
    )
    target_mpp: float = Field(0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1], description="micrometres per pixel of the tiles")
    also_mpp: tuple[Mpp, ...] = Field(
        (), max_length=7, description="coarser scales to extract too, each a whole multiple of the next finer one"
    )
    tile_size: int = Field(256, ge=16, le=4096, description="tile side in pixels at the target resolution")
    overlap: int = Field(0, ge=0, description="pixels that neighbouring tiles share, at each scale")
    min_tissue: float = Field(0.25, ge=0, le=1, description="least share of a tile's area that is tissue; 0 keeps every tile")
    ink: Annotated[tuple[Literal["red", "green", "blue", "black"], ...], BeforeValidator(comma_separated), Written(str)] = (
        Field(
            ("red", "green", "blue", "black"),
            description="marker inks to look for, comma-separated, or none; leave out colours that the slides are stained in, "
            "such as blue for a trichrome",
        )
    )
    max_pen: float = Field(0.25, ge=0, le=1, description="largest share of a tile's area under a marker's ink")
    max_fold: float = Field(1.0, ge=0, le=1, description="largest share of a tile's area that is folded; 1 keeps every tile")
    tissue: Literal["hsv-otsu", "stain-density", "mask", "geojson"] = Field(
        "hsv-otsu", description="how tissue is found (docs/tissue.md); mask and geojson: your own, in the tissue folder"
    )
    tissue_folder: Path | None = Field(
        None,
        description="folder of your own tissue outlines, <slide_id>.geojson, .png, ...: used for slides that have a file there",
    )
    assume_mpp: float | None = Field(
        None, ge=MPP_RANGE[0], le=MPP_RANGE[1], description="micrometres per pixel of slides that do not state it"
    )
    positive_classes: tuple[str, ...] = Field(
        (), description="classes of the annotations that make a tile positive; default all except those that are cut out"
    )
    regions_only: bool = Field(False, description="take only tiles inside the slides' annotations")
    regions: tuple[str, ...] = Field((), description="take only tiles inside these classes of the annotations")
    exclude_regions: tuple[str, ...] = Field((), description="take no tiles inside these classes of the annotations")
    annotation_overlap: float = Field(
        0.25, gt=0, le=1, description="least share of a tile's area that makes it count as inside an annotation"
    )
    batch_size: int = Field(32, ge=1, le=4096, description="tiles encoded at a time")
    precision: Precision = Field(
        "auto",
        description="number type of the encoder; auto: bfloat16 or float16 on CUDA devices, otherwise float32",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="type of the stored features")
    stain_normalisation: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="normalise every slide's staining to the reference's; measured once per slide"
    )
    stain_reference: Annotated[StainReference | None, Written(Path)] = Field(
        None,
        validate_default=True,
        description="image of H&E tissue whose staining is the reference; default built in. Stored as measured",
    )
    stain: Stain | Literal["random"] = Field(
        "as-scanned",
        description="shift the staining, as another laboratory might stain; random: a different shift for each slide",
    )

    @field_validator("tissue_folder")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        """The absolute folder: workers elsewhere have other working directories."""
        try:
            if value is not None and not value.is_dir():
                raise ValueError(f"{value}: no such folder")
        except OSError as error:
            raise ValueError(f"{value}: cannot be read ({error.strerror or error})") from None
        return None if value is None else value.absolute()

    @field_validator("stain_reference", mode="before")
    @classmethod
    def _measured(cls, value: Any, info: ValidationInfo) -> Any:
        """An image as the staining that it shows, so that its content, not its path, identifies an extraction."""
        method = info.data.get("stain_normalisation")
        if method in (None, "none"):
            if value is not None:
                raise ValueError("needs stain_normalisation macenko or reinhard")
            return None
        if isinstance(value, (dict, BaseModel)):
            return value
        from pipelines.stain.normalisation import read_reference

        return read_reference(value, method)

    @model_validator(mode="after")
    def _reference_fits(self) -> ExtractSettings:
        if self.stain_reference is not None and self.stain_reference.method != self.stain_normalisation:
            raise ValueError(f"the stain reference was measured for {self.stain_reference.method}")
        return self

    @field_validator("also_mpp")
    @classmethod
    def _fine_to_coarse(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _scales_nest(self) -> ExtractSettings:
        for finer, coarser in pairwise((self.target_mpp, *self.also_mpp)):
            ratio = coarser / finer
            if round(ratio) < 2 or abs(ratio - round(ratio)) > _SAME_RATIO:
                raise ValueError(f"also_mpp {coarser:g} is not 2, 3, ... times the next finer scale, {finer:g}")
        return self

    @model_validator(mode="after")
    def _overlap_fits(self) -> ExtractSettings:
        if self.overlap >= self.tile_size:
            raise ValueError(f"overlap {self.overlap} must be smaller than tile_size {self.tile_size}")
        return self

    @model_validator(mode="after")
    def _own_tissue_has_a_folder(self) -> ExtractSettings:
        if self.tissue in ("mask", "geojson") and self.tissue_folder is None:
            raise ValueError(f"tissue {self.tissue} is your own: give tissue_folder, a folder of <slide_id> files")
        return self


def content_settings(
    settings: ExtractSettings,
    encoder: PatchEncoder,
    *,
    slide: Path,
    mpp: float | None,
    annotation: Path | None,
    tissue: Path | None = None,
    assumed_mpp: float | None = None,
) -> dict[str, Any]:
    """Everything that determines a bag's content: two equal dictionaries mean the same content.

    The device and the batch size are left out: they change speed, and features at most by rounding. The precision is the one
    used by the encoder; the encoder has the hash of its weights; the slide, its annotation and its tissue's file have what
    identifies their content. ``assume_mpp`` appears as ``assumed_mpp``, and only for a slide that it applied to.

    Args:
        settings: see :class:`ExtractSettings`.
        encoder: the patch encoder.
        slide: its file.
        mpp: micrometres per pixel in the manifest.
        annotation: its file.
        tissue: the file of the user's own tissue.
        assumed_mpp: ``settings.assume_mpp`` if neither the slide nor the manifest states micrometres per pixel.

    Raises:
        OSError: the slide, the annotation or the tissue's file cannot be read.
    """
    from comel.base.files import sha256_of_file
    from pipelines.slides.slide_files import fingerprint

    return {
        **settings.model_dump(mode="json", exclude={"batch_size", "tissue_folder", "assume_mpp"}),
        "precision": encoder.precision,
        "encoder": encoder.name,
        "encoder_weights_hash": encoder.weights_hash,
        "encoder_recipe": encoder.recipe,
        "mpp": mpp,
        "assumed_mpp": assumed_mpp,
        "source": {"name": slide.name, "fingerprint": fingerprint(slide)},
        "annotation": None if annotation is None else sha256_of_file(annotation),
        "tissue_file": None if tissue is None else sha256_of_file(tissue),
    }
