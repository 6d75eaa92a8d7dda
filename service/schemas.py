"""What goes over the wire: the bodies of requests and answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from comel.prediction import NOTICE

__all__ = [
    "Health",
    "InstancesAnswer",
    "InstancesBody",
    "Links",
    "ModelAnswer",
    "PredictionAnswer",
    "PredictionBody",
    "SlideRequest",
]

_NOTICE = Field(default=NOTICE, description="what the answer may be used for")
Number = int | float


class SlideRequest(BaseModel):
    """A slide that lies under the service's slide folder."""

    model_config = ConfigDict(extra="forbid")

    slide: str = Field(
        min_length=1, max_length=1024, description="path below the slide folder", examples=["case-7/slide-1.svs"]
    )
    task: str | None = Field(
        default=None, max_length=256, description="tell apart the classes of this task only", examples=["breast"]
    )
    mpp: float | None = Field(
        default=None,
        ge=0.05,
        le=20,
        description="micrometres per pixel of level 0, in place of what the slide says",
        examples=[0.25],
    )


class PredictionBody(BaseModel):
    """The slide's class, and how sure the model is."""

    slide_id: str = Field(examples=["slide-1"])
    mode: str = Field(description="class-incremental, task-incremental or domain-incremental", examples=["class-incremental"])
    task: str | None = Field(description="the predicted or given task", examples=["breast"])
    label: str | None = Field(description="the predicted label; null where there is no tissue", examples=["tumour"])
    positive: bool = Field(description="whether the label is another than the task's negative class")
    confidence: float | None = Field(description="probability of the predicted class", examples=[0.91])
    probabilities: dict[str, float] | None = Field(
        description="probability of every class", examples=[{"breast/normal": 0.09, "breast/tumour": 0.91}]
    )
    threshold: float = Field(description="instance score from which a tile counts as positive", examples=[0.5])
    model: dict[str, Any] = Field(description="which model said so", examples=[{"run": "demo", "version": 2}])
    notes: list[str] = Field(description="remarks, such as 'no tissue'")


class InstancesBody(BaseModel):
    """The instance-level map as numbers: tile scores with the tiles' places, in the order of the bag."""

    count: int = Field(description="tiles of the slide", examples=[1907])
    positive: int = Field(description="tiles that reach the threshold", examples=[332])
    returned: int = Field(
        description="tiles listed here: the first ones; fewer than count where the list was cut", examples=[1907]
    )
    scores: list[float] = Field(description="evidence for the task's positive classes, 0 to 1, the same scale on every slide")
    coords: list[tuple[Number, Number]] | None = Field(description="level-0 pixel (x, y) of each tile's top left corner")
    tile_size: tuple[float, float] | None = Field(
        description="width and height of a tile in level-0 pixels", examples=[[512.0, 512.0]]
    )


class Links(BaseModel):
    """Where the parts of a prediction are; null where the bag does not say enough to make them."""

    model_config = ConfigDict(populate_by_name=True)

    this: str = Field(alias="self", description="this prediction")
    instances: str = Field(description="all tiles")
    map: str | None = Field(description="the map as PNG")
    geojson: str | None = Field(description="the map as GeoJSON for QuPath")


class PredictionAnswer(BaseModel):
    """One prediction."""

    id: str = Field(description="name of the prediction", examples=["9f86d081884c4d659a2feaa0c55ad015"])
    prediction: PredictionBody
    instances: InstancesBody
    links: Links
    notice: str = _NOTICE


class InstancesAnswer(BaseModel):
    """All tiles of one prediction."""

    id: str
    instances: InstancesBody
    notice: str = _NOTICE


class ModelAnswer(BaseModel):
    """The model that answers, and what it needs to be given."""

    run: str = Field(description="the run's identity", examples=["demo"])
    version: int = Field(description="the version of the run", examples=[2])
    mode: str = Field(examples=["class-incremental"])
    classes: list[str] = Field(description="all classes, task/label", examples=[["breast/normal", "breast/tumour"]])
    tasks: list[dict[str, Any]] = Field(description="the tasks in the order in which they were learned")
    contract: dict[str, Any] = Field(description="how the features of a bag must have been made")
    slides: bool = Field(description="whether slides can be named, or bags only")
    max_upload_bytes: int = Field(description="largest body in bytes")
    max_instances: int = Field(description="most tiles of a bag")
    notice: str = _NOTICE


class Health(BaseModel):
    """The service is well."""

    status: str = Field(default="ok", examples=["ok"])
