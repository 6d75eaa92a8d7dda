"""Slides read according to a feature contract: the same encoder with the same weights, the same tiles at the same mpp, and the
tissue, the overlap and the stain normalisation of the slides that the model was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from comel.bags.contract import EXTRACTION_FIELDS, FeatureContract
from comel.bags.scales import join_scales
from comel.base.files import sha256_of_file
from comel.base.trust import Trust
from comel.errors import ConfigError, FeatureMismatch, SlideError
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import ExtractedSlide, Progress, extract_slide
from pipelines.patch_encoders import PatchEncoder, load_encoder, load_stated_encoder
from pipelines.slides.slide import open_slide
from pipelines.slides.slide_files import fingerprint
from pipelines.tiles.plan import TooCoarse
from pipelines.tissue import OWN_TISSUE, own_tissue

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ContractReader"]

THUMBNAIL_SIDE = 1536
_SEND_A_BAG = "send a bag instead, made as the training bags were"


class ContractReader:
    """Extracts slides for a model; the encoder is loaded at the first slide and kept.

    Args:
        contract: the model's feature contract.
        assume_mpp: micrometres per pixel of slides that do not state it.
        device: the encoder's device.
        encoder: where the contract's encoder comes from, such as ``uni:FOLDER`` or ``file.py:Class``, as given by the user;
            default its name, which refers to a built-in or an installed package's encoder.
        trust: what else that name may refer to.
        tissue_folder: the user's own tissue, see :func:`pipelines.tissue.own_tissue`; used for the slides that it has a file
            for, and needed if the model was trained on the user's own tissue.
    """

    def __init__(
        self,
        contract: FeatureContract,
        *,
        assume_mpp: float | None = None,
        device: str = "auto",
        encoder: str | None = None,
        trust: Trust | None = None,
        tissue_folder: Path | None = None,
    ) -> None:
        self._contract, self._assume_mpp, self._device, self._source = contract, assume_mpp, device, encoder
        self._trust = trust or Trust()
        self._tissue_folder = tissue_folder
        self._encoder: PatchEncoder | None = None

    def extract(
        self, path: Path, *, slide_id: str, mpp: float | None = None, progress: Progress | None = None
    ) -> ExtractedSlide:
        """One slide; ``mpp`` overrides the slide's own, ``progress`` receives the stage and the tiles done.

        Raises:
            ConfigError: see :meth:`settings`; or the contract's encoder is not available.
            FeatureMismatch: see :meth:`settings`; or the available encoder has other weights.
            SlideError: the slide cannot be used.
        """
        settings, contract = self.settings(), self._contract
        assert contract.encoder is not None
        encoder = self._load(contract.encoder, contract.weights_hash)
        try:
            extracted = extract_slide(path, slide_id=slide_id, encoder=encoder, settings=settings, mpp=mpp, progress=progress)
        except TooCoarse as error:
            remedy = "the model needs a finer scan; if the slide's um/px are wrong, correct the manifest column 'mpp' or --mpp"
            raise SlideError(error.what, remedy, stage=error.stage) from None
        return replace(extracted, bag=join_scales(extracted.bag)) if contract.joined_mpp else extracted

    def settings(self) -> ExtractSettings:
        """How slides are read; the encoder is not loaded.

        Raises:
            ConfigError: the contract does not state how features are made, or needs the user's own tissue and no folder for it
                was given.
            FeatureMismatch: this version cannot read slides as the contract requires.
        """
        contract = self._contract
        if contract.encoder is None or contract.mpp is None or contract.tile_size is None:
            raise ConfigError(
                "the model was trained on features that do not state how they were made, so it cannot read slides",
                "send a bag instead, made by the same tool",
            )
        if (tissue := contract.reading.get("tissue")) in OWN_TISSUE and self._tissue_folder is None:
            raise ConfigError(
                f"the model reads slides only with their tissue drawn by hand (it was trained with --tissue {tissue})",
                "draw this slide's and give the folder as --tissue-folder (of the service: tissue_folder), or send a bag",
            )
        if self._tissue_folder is not None and not self._tissue_folder.is_dir():
            raise ConfigError(f"{self._tissue_folder}: no such folder", "check --tissue-folder")
        reference = contract.reading.get("stain_reference")
        if foreign := sorted(set(contract.reading) - set(EXTRACTION_FIELDS)):
            raise FeatureMismatch(f"the model's contract has '{foreign[0]}', which is not one of its settings", _SEND_A_BAG)
        if reference is not None and not isinstance(reference, dict):
            raise FeatureMismatch("the model's contract names a file as its stain reference, not its staining", _SEND_A_BAG)
        known: dict[str, Any] = {
            **contract.reading,
            "encoder": self._source or contract.encoder,
            "target_mpp": contract.mpp,
            "tile_size": contract.tile_size,
            "assume_mpp": self._assume_mpp,
            "also_mpp": contract.joined_mpp,
            "tissue_folder": self._tissue_folder,
        }
        try:
            return ExtractSettings.model_validate(known)
        except ValidationError as error:
            problem = error.errors()[0]
            raise FeatureMismatch(
                f"slides cannot be read as the model's were: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                _SEND_A_BAG,
            ) from None

    def source(self, path: Path, *, slide_id: str, mpp: float | None = None) -> dict[str, Any] | None:
        """What determines a slide's features besides the contract, as JSON values; nothing is extracted.

        Returns:
            Equal values mean that :meth:`extract` gives equal features. None if the contract does not have the hash of its
            encoder's weights, so that they may have changed.

        Raises:
            ConfigError, FeatureMismatch: see :meth:`settings`.
            SlideError: the slide's own tissue is not valid.
            OSError: the slide or the file of its tissue cannot be read.
        """
        if self._contract.weights_hash is None:
            return None
        tissue = own_tissue(self._tissue_folder, slide_id, self.settings().tissue)
        return {
            "file": path.name,
            "slide": fingerprint(path),
            "tissue": None if tissue is None else sha256_of_file(tissue),
            "mpp": mpp,
            "assume_mpp": self._assume_mpp,
            "encoder": self._source,
        }

    def thumbnail(self, path: Path, *, mpp: float | None = None) -> Image:
        """The whole slide as a picture of at most 1,536 pixels per side."""
        with open_slide(path, mpp=mpp, assume_mpp=self._assume_mpp) as slide:
            return slide.thumbnail(THUMBNAIL_SIDE)

    def _load(self, name: str, weights_hash: str | None) -> PatchEncoder:
        if self._encoder is None:
            if self._source is None:
                encoder = load_stated_encoder(name, self._trust, self._device)
            else:
                encoder = load_encoder(self._source, self._device)
            if encoder.name != name:
                raise FeatureMismatch(f"{self._source}: is the encoder {encoder.name}, not {name}", "name the model's encoder")
            if weights_hash and encoder.weights_hash != weights_hash:
                raise FeatureMismatch(
                    f"{name}: the model was trained with other weights than those on this machine",
                    "install the original ones, or send a bag made with them",
                )
            code = self._contract.code_sha256
            if code and encoder.code_sha256 and encoder.code_sha256 != code:
                raise FeatureMismatch(
                    f"{name}: not the code that the model's slides were extracted with "
                    f"(SHA-256 {encoder.code_sha256[:12]}... instead of {code[:12]}...)",
                    "give the file in its state then, or send a bag made with it",
                )
            self._encoder = encoder
        return self._encoder
