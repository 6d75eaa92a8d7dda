"""The bodies of requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from comel.prediction.prediction import NOTICE
from service.ids import EXAMPLE_ID, EXAMPLE_TIME

__all__ = [
    "Health",
    "InstancesAnswer",
    "InstancesBody",
    "Links",
    "ModelAnswer",
    "ModelSummary",
    "ModelVersion",
    "ModelsAnswer",
    "OutOfDistributionBody",
    "PredictionAnswer",
    "PredictionBody",
    "PredictionEntry",
    "PredictionPage",
    "Readiness",
    "RefusedVersion",
    "TaskBody",
    "TileBody",
    "TilesAnswer",
    "UnusableModel",
    "VersionRequest",
]

_NOTICE = Field(default=NOTICE, description="permitted use of the answer")
Number = int | float


class OutOfDistributionBody(BaseModel):
    """Whether the slide is of a kind that the model has learned."""

    score: float = Field(description="distance from the nearest class; of the task, if one is given", examples=[1.2])
    threshold: float = Field(description="distance from which a slide counts as a different kind", examples=[2.3])
    flag: bool = Field(description="whether the slide does; the prediction then means little", examples=[False])


class PredictionBody(BaseModel):
    """The slide's class, and how sure the model is."""

    slide_id: str = Field(examples=["slide-1"])
    mode: str = Field(description="class-incremental, task-incremental or domain-incremental", examples=["class-incremental"])
    task: str | None = Field(description="the predicted or given task", examples=["breast"])
    label: str | None = Field(description="the predicted label; null if there is no tissue", examples=["tumour"])
    positive: bool = Field(description="whether the label differs from the task's negative class")
    confidence: float | None = Field(description="probability of the predicted class", examples=[0.91])
    probabilities: dict[str, float] | None = Field(
        description="probability of every class", examples=[{"breast/normal": 0.09, "breast/tumour": 0.91}]
    )
    threshold: float = Field(description="instance score from which a tile counts as positive", examples=[0.5])
    out_of_distribution: OutOfDistributionBody | None = Field(
        description="how far the slide lies from what the model has learned; null if the model cannot tell"
    )
    model: dict[str, Any] = Field(description="the model that predicted", examples=[{"run": "demo", "version": 2}])
    notes: list[str] = Field(description="remarks, such as 'no tissue'", examples=[[]])


class InstancesBody(BaseModel):
    """The instance-level map as numbers: tile scores with the tiles' places, in the order of the bag."""

    count: int = Field(description="tiles of the slide", examples=[1907])
    positive: int = Field(description="tiles that reach the threshold", examples=[332])
    returned: int = Field(
        description="tiles listed here: the first ones; fewer than count if the list was cut", examples=[1907]
    )
    scores: list[float] = Field(
        description="evidence for the task's positive classes, 0 to 1, the same scale on every slide", examples=[[0.12, 0.93]]
    )
    coords: list[tuple[Number, Number]] | None = Field(
        description="level-0 pixel (x, y) of each tile's top left corner", examples=[[[0, 0], [512, 0]]]
    )
    tile_size: tuple[float, float] | None = Field(
        description="width and height of a tile in level-0 pixels", examples=[[512.0, 512.0]]
    )


class Links(BaseModel):
    """Links to the parts of a prediction; null if the bag does not state enough to make them."""

    model_config = ConfigDict(populate_by_name=True)

    this: str = Field(alias="self", description="this prediction", examples=[f"/v1/predictions/{EXAMPLE_ID}"])
    instances: str = Field(description="all tiles", examples=[f"/v1/predictions/{EXAMPLE_ID}/instances"])
    map: str | None = Field(description="the map as PNG", examples=[f"/v1/predictions/{EXAMPLE_ID}/map.png"])
    geojson: str | None = Field(
        description="the map as GeoJSON for QuPath", examples=[f"/v1/predictions/{EXAMPLE_ID}/map.geojson"]
    )
    tiles: str = Field(description="the strongest tiles", examples=[f"/v1/predictions/{EXAMPLE_ID}/tiles"])
    bag: str = Field(description="the bag", examples=[f"/v1/predictions/{EXAMPLE_ID}/bag.h5"])


class PredictionAnswer(BaseModel):
    """One prediction."""

    id: str = Field(description="id of the prediction", examples=[EXAMPLE_ID])
    created: datetime = Field(examples=[EXAMPLE_TIME])
    slide: str | None = Field(description="id of its slide, null if the service cannot show it", examples=[None])
    prediction: PredictionBody
    instances: InstancesBody
    links: Links
    notice: str = _NOTICE


class PredictionEntry(BaseModel):
    """A prediction in a list."""

    id: str = Field(examples=[EXAMPLE_ID])
    slide_id: str = Field(description="the slide's name", examples=["slide-1"])
    slide: str | None = Field(description="id of its slide, null if the service cannot show it", examples=[None])
    label: str | None = Field(description="the predicted class; null if there is no tissue", examples=["breast/tumour"])
    confidence: float | None = Field(description="probability of the predicted class", examples=[0.91])
    model: str = Field(description="name of the model", examples=["default"])
    version: int = Field(description="its version", examples=[2])
    created: datetime = Field(examples=[EXAMPLE_TIME])
    link: str = Field(description="where it is", examples=[f"/v1/predictions/{EXAMPLE_ID}"])


class PredictionPage(BaseModel):
    """Predictions, newest first."""

    items: list[PredictionEntry]
    next: str | None = Field(description="cursor of the next page; null on the last one", examples=[None])
    notice: str = _NOTICE


class TileBody(BaseModel):
    """One of the strongest tiles."""

    rank: int = Field(description="1 is the strongest", examples=[1])
    index: int = Field(description="its place in the bag", examples=[417])
    score: float = Field(examples=[0.98])
    x: Number | None = Field(description="level-0 pixel of its left edge", examples=[10240])
    y: Number | None = Field(description="level-0 pixel of its top edge", examples=[20480])
    width: float | None = Field(description="its width in level-0 pixels", examples=[512.0])
    height: float | None = Field(description="its height in level-0 pixels", examples=[512.0])
    image: str | None = Field(
        description="its picture; null if the prediction was made only from a bag",
        examples=[f"/v1/predictions/{EXAMPLE_ID}/tiles/1.jpg"],
    )


class TilesAnswer(BaseModel):
    """The tiles with the highest scores, highest first."""

    id: str = Field(examples=[EXAMPLE_ID])
    tiles: list[TileBody]
    notice: str = _NOTICE


class InstancesAnswer(BaseModel):
    """All tiles of one prediction."""

    id: str = Field(examples=[EXAMPLE_ID])
    instances: InstancesBody
    notice: str = _NOTICE


class TaskBody(BaseModel):
    """A task that a model has learned."""

    name: str = Field(examples=["breast"])
    labels: list[str] = Field(examples=[["normal", "tumour"]])
    negative: str | None = Field(default=None, description="the label that means no finding", examples=["normal"])
    threshold: float = Field(default=0.5, description="instance score from which a tile counts as positive", examples=[0.5])
    stage: int = Field(default=0, description="when it was learned, from 0")


class RefusedVersion(BaseModel):
    """A version that should answer but cannot; the previous one continues, if any."""

    version: int | None = Field(description="null if the run does not state it", examples=[3])
    reason: str = Field(examples=["versions/003/model.safetensors: missing or changed since it was written"])
    remedy: str = Field(examples=["restore the version from a copy"])


class ModelSummary(BaseModel):
    """A model as it answers now, and its feature contract."""

    name: str = Field(description="its name in requests", examples=["lung"])
    default: bool = Field(description="whether it answers requests without a model name")
    run: str = Field(description="the run's identity", examples=["3f2a9c51d07b"])
    version: int = Field(description="the version that answers", examples=[2])
    pinned: bool = Field(description="whether that version was chosen, so that newer ones do not replace it")
    refused: RefusedVersion | None = Field(description="a newer or chosen version that cannot be used")
    mode: str = Field(description="class-incremental or domain-incremental", examples=["class-incremental"])
    classes: list[str] = Field(description="all classes, task/label", examples=[["breast/normal", "breast/tumour"]])
    tasks: list[TaskBody] = Field(description="the tasks in the order in which they were learned")
    contract: dict[str, Any] = Field(description="how a bag's features must have been made")


class UnusableModel(BaseModel):
    """A model that cannot answer."""

    name: str = Field(description="its name in requests", examples=["lung"])
    refused: RefusedVersion = Field(description="why")


class ModelsAnswer(BaseModel):
    """The models that answer, the default first, those that cannot, and the service's limits."""

    items: list[ModelSummary]
    unusable: list[UnusableModel] = Field(description="models none of whose versions can be used", examples=[[]])
    slides: bool = Field(description="whether slides can be named, or bags only")
    max_upload_bytes: int = Field(description="largest body in bytes")
    max_instances: int = Field(description="most tiles of a bag")
    notice: str = _NOTICE


class ModelVersion(BaseModel):
    """A version of a model's run."""

    version: int = Field(examples=[2])
    created: str = Field(description="UTC time, ISO 8601", examples=["2026-03-01T09:30:00+00:00"])
    tasks: list[str] = Field(description="the tasks that it has learned", examples=[["breast", "colon"]])
    adapters: list[str] = Field(
        description="the adapters merged into its weights, by their folders' names", examples=[["002-colon"]]
    )
    metrics: dict[str, dict[str, dict[str, dict[str, float | None]]]] = Field(
        description="scores on each task's test slides, null if it was not scored: kind, mode, score, task",
        examples=[{"bag": {"class_incremental": {"accuracy": {"breast": 0.94}}}}],
    )
    answers: bool = Field(description="whether it is the one that answers")
    loaded: bool = Field(description="whether it is in memory")


class ModelAnswer(ModelSummary):
    """One model with the versions of its run."""

    versions: list[ModelVersion] = Field(description="newest first")
    notice: str = _NOTICE


class VersionRequest(BaseModel):
    """The version of a model that should answer."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(
        ge=1,
        le=10**9,
        description="a version of the run, newer or older; null follows the run's newest again",
        examples=[1],
    )


class Health(BaseModel):
    """The service is well."""

    status: str = Field(default="ok", examples=["ok"])


class Readiness(Health):
    """The service can predict."""

    warnings: list[str] = Field(default=[], description="problems for the operator, although requests are answered")
