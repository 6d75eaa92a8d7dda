"""The named encoders: their properties, their requirements, and the terms of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.patch_encoders.preprocessing import Preprocessing

__all__ = ["ENCODER_FACTS", "EncoderFacts"]

_NON_COMMERCIAL = "CC-BY-NC-ND-4.0"
_TIMM = "pipelines.patch_encoders.timm_vit:TimmViT"
_TRANSFORMERS = "pipelines.patch_encoders.named_transformers:NamedTransformersEncoder"
_BIOPTIMUS = Preprocessing(interpolation="bicubic", mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))


@dataclass(frozen=True)
class EncoderFacts:
    """The facts of an encoder.

    Attributes:
        name: the name that users write and bags state.
        repository: its weights' repository on the Hugging Face hub.
        loader: ``module:Class`` that loads it; called with these facts, a local folder or None, a device and a precision.
        package: the library of its network.
        dimension: length of a feature vector.
        input_size: side in pixels of the network's input.
        mpp: micrometres per pixel of the tiles it is meant for; empty for photographs.
        mpp_source: whether a figure is stated, a magnification (20x is taken as 0.5), or neither, with 0.5 as customary.
        features: the part of the network's output that forms the vector.
        licence: the weights' licence.
        gated: whether the hub gives the weights only on request.
        preprocessing: the tiles' preprocessing; None if the folder's own preprocessor_config.json defines it.
        files: possible names of the weights in the folder; the first found is used.
    """

    name: str
    repository: str
    loader: str
    package: Literal["timm", "transformers"]
    dimension: int
    input_size: int
    mpp: tuple[float, ...]
    mpp_source: Literal["stated", "magnification", "custom", "none"]
    features: Literal["class token", "class token and mean of patch tokens", "pooled output"]
    licence: str
    gated: bool
    preprocessing: Preprocessing | None = None
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")

    @property
    def page(self) -> str:
        """Where the weights are, and where to ask for access."""
        return f"https://huggingface.co/{self.repository}"


_ALL = (
    EncoderFacts(
        name="uni",
        repository="MahmoodLab/UNI",
        loader=_TIMM,
        package="timm",
        dimension=1024,
        input_size=224,
        mpp=(0.5,),
        mpp_source="magnification",
        features="class token",
        licence=_NON_COMMERCIAL,
        gated=True,
        preprocessing=Preprocessing(),
    ),
    EncoderFacts(
        name="uni2-h",
        repository="MahmoodLab/UNI2-h",
        loader=_TIMM,
        package="timm",
        dimension=1536,
        input_size=224,
        mpp=(0.5,),
        mpp_source="custom",
        features="class token",
        licence=_NON_COMMERCIAL,
        gated=True,
        preprocessing=Preprocessing(),
    ),
    EncoderFacts(
        name="virchow2",
        repository="paige-ai/Virchow2",
        loader=_TIMM,
        package="timm",
        dimension=2560,
        input_size=224,
        mpp=(0.25, 0.5, 1.0, 2.0),
        mpp_source="stated",
        features="class token and mean of patch tokens",
        licence=_NON_COMMERCIAL,
        gated=True,
        preprocessing=Preprocessing(interpolation="bicubic"),
    ),
    EncoderFacts(
        name="h-optimus-0",
        repository="bioptimus/H-optimus-0",
        loader=_TIMM,
        package="timm",
        dimension=1536,
        input_size=224,
        mpp=(0.5,),
        mpp_source="stated",
        features="class token",
        licence="Apache-2.0",
        gated=True,
        preprocessing=_BIOPTIMUS,
    ),
    EncoderFacts(
        name="h-optimus-1",
        repository="bioptimus/H-optimus-1",
        loader=_TIMM,
        package="timm",
        dimension=1536,
        input_size=224,
        mpp=(0.5,),
        mpp_source="stated",
        features="class token",
        licence=_NON_COMMERCIAL,
        gated=True,
        preprocessing=_BIOPTIMUS,
    ),
    EncoderFacts(
        name="prov-gigapath",
        repository="prov-gigapath/prov-gigapath",
        loader=_TIMM,
        package="timm",
        dimension=1536,
        input_size=224,
        mpp=(0.5,),
        mpp_source="stated",
        features="class token",
        licence="Apache-2.0, research only",
        gated=True,
        preprocessing=Preprocessing(resize=256, interpolation="bicubic"),
    ),
    EncoderFacts(
        name="conch-v1.5",
        repository="MahmoodLab/conchv1_5",
        loader="pipelines.patch_encoders.conch:ConchV15",
        package="timm",
        dimension=768,
        input_size=448,
        mpp=(0.5,),
        mpp_source="magnification",
        features="pooled output",
        licence=_NON_COMMERCIAL,
        gated=True,
        preprocessing=Preprocessing(resize=448, crop=448),
        files=("pytorch_model_vision.bin",),
    ),
    EncoderFacts(
        name="ctranspath",
        repository="1aurent/swin_tiny_patch4_window7_224.CTransPath",
        loader="pipelines.patch_encoders.ctranspath:CTransPath",
        package="timm",
        dimension=768,
        input_size=224,
        mpp=(0.5, 1.0),
        mpp_source="magnification",
        features="pooled output",
        licence="GPL-3.0, non-commercial",
        gated=False,
        preprocessing=Preprocessing(),
        files=("model.safetensors", "ctranspath.pth"),
    ),
    EncoderFacts(
        name="phikon-v2",
        repository="owkin/phikon-v2",
        loader=_TRANSFORMERS,
        package="transformers",
        dimension=1024,
        input_size=224,
        mpp=(0.5,),
        mpp_source="stated",
        features="class token",
        licence="Owkin, non-commercial",
        gated=False,
    ),
    EncoderFacts(
        name="hibou-b",
        repository="histai/hibou-b",
        loader=_TRANSFORMERS,
        package="transformers",
        dimension=768,
        input_size=224,
        mpp=(0.5,),
        mpp_source="custom",
        features="class token",
        licence="Apache-2.0",
        gated=True,
    ),
    EncoderFacts(
        name="hibou-l",
        repository="histai/hibou-L",
        loader=_TRANSFORMERS,
        package="transformers",
        dimension=1024,
        input_size=224,
        mpp=(0.5,),
        mpp_source="custom",
        features="class token",
        licence="Apache-2.0",
        gated=True,
    ),
    EncoderFacts(
        name="resnet-50",
        repository="microsoft/resnet-50",
        loader=_TRANSFORMERS,
        package="transformers",
        dimension=2048,
        input_size=224,
        mpp=(),
        mpp_source="none",
        features="pooled output",
        licence="Apache-2.0",
        gated=False,
    ),
)

ENCODER_FACTS = {facts.name: facts for facts in _ALL}
