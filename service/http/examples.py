"""The bodies that the API's description shows: one slide, submitted, predicted and read, as the service answers it.

The keys are the operations' ids, an answer's with its status; a body may have several examples, each under its name.
"""

from __future__ import annotations

from typing import Any

from comel.prediction.prediction import NOTICE
from service.ids import EXAMPLE_ID, EXAMPLE_SLIDE, EXAMPLE_TIME, EXAMPLE_UPLOAD

__all__ = ["ANSWERS", "REQUESTS", "Examples"]

Examples = dict[str, Any]

_LATER = "2026-03-01T09:32:10Z"
_THIS = f"/v1/predictions/{EXAMPLE_ID}"
_JOB_LINK = f"/v1/jobs/{EXAMPLE_ID}"

_INSTANCES = {
    "count": 3,
    "positive": 2,
    "returned": 3,
    "scores": [0.12, 0.93, 0.71],
    "coords": [[10240, 20480], [10752, 20480], [11264, 20480]],
    "tile_size": [512.0, 512.0],
}
_PREDICTION = {
    "id": EXAMPLE_ID,
    "created": EXAMPLE_TIME,
    "slide": EXAMPLE_SLIDE,
    "prediction": {
        "slide_id": "slide-1",
        "mode": "class-incremental",
        "task": "breast",
        "label": "tumour",
        "positive": True,
        "confidence": 0.91,
        "probabilities": {"breast/normal": 0.09, "breast/tumour": 0.91},
        "threshold": 0.5,
        "out_of_distribution": {"score": 1.2, "threshold": 2.3, "flag": False},
        "model": {"run": "3f2a9c51d07b", "version": 2},
        "notes": [],
    },
    "instances": _INSTANCES,
    "links": {
        "self": _THIS,
        "instances": f"{_THIS}/instances",
        "map": f"{_THIS}/map.png",
        "geojson": f"{_THIS}/map.geojson",
        "tiles": f"{_THIS}/tiles",
        "bag": f"{_THIS}/bag.h5",
    },
    "notice": NOTICE,
}
_OF_A_BAG = _PREDICTION | {"slide": None}
_PREDICTIONS = {
    "items": [
        {
            "id": EXAMPLE_ID,
            "slide_id": "slide-1",
            "slide": EXAMPLE_SLIDE,
            "label": "breast/tumour",
            "confidence": 0.91,
            "model": "breast",
            "version": 2,
            "created": EXAMPLE_TIME,
            "link": _THIS,
        }
    ],
    "next": None,
    "notice": NOTICE,
}
_TILES = {
    "id": EXAMPLE_ID,
    "tiles": [
        {
            "rank": 1,
            "index": 1,
            "score": 0.93,
            "x": 10752,
            "y": 20480,
            "width": 512.0,
            "height": 512.0,
            "image": f"{_THIS}/tiles/1.jpg",
        }
    ],
    "notice": NOTICE,
}
_GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[10752, 20480], [11264, 20480], [11264, 20992], [10752, 20992], [10752, 20480]]],
            },
            "properties": {
                "objectType": "tile",
                "classification": {"name": "tumour", "color": [214, 72, 40]},
                "measurements": {"score": 0.93},
            },
        }
    ],
    "notice": NOTICE,
}
_RASTER = {
    "x": 10240.0,
    "y": 20480.0,
    "width": 1536.0,
    "height": 512.0,
    "columns": 3,
    "rows": 1,
    "threshold": 0.5,
    "classes": [],
    "level0": True,
    "level0_width": 46000.0,
    "level0_height": 32914.0,
    "mpp_x": 0.25,
    "mpp_y": 0.25,
}

_QUEUED = {
    "id": EXAMPLE_ID,
    "state": "queued",
    "kind": "slide",
    "slide_id": "slide-1",
    "model": {"name": "breast", "version": 2},
    "progress": {"stage": None, "done": 0, "total": 0},
    "position": 3,
    "attempts": 0,
    "error": None,
    "prediction": None,
    "created": EXAMPLE_TIME,
    "started": None,
    "finished": None,
    "links": {"self": _JOB_LINK, "cancel": f"{_JOB_LINK}/cancel", "prediction": None},
    "notice": NOTICE,
}
_RUNNING = _QUEUED | {
    "state": "running",
    "progress": {"stage": "encode", "done": 512, "total": 1907},
    "position": None,
    "attempts": 1,
    "started": EXAMPLE_TIME,
}
_ENDED = _RUNNING | {"finished": _LATER, "links": {"self": _JOB_LINK, "cancel": None, "prediction": None}}
_DONE = _ENDED | {
    "state": "done",
    "progress": {"stage": "predict", "done": 1907, "total": 1907},
    "prediction": EXAMPLE_ID,
    "links": {"self": _JOB_LINK, "cancel": None, "prediction": _THIS},
}
_FAILED = _ENDED | {
    "state": "failed",
    "progress": {"stage": "open", "done": 0, "total": 0},
    "error": {
        "what": "slide-1.svs: the slide states no micrometres per pixel",
        "remedy": "send it again with mpp",
    },
}
_CANCELLED = _ENDED | {"state": "cancelled"}

_BEGUN = {
    "id": EXAMPLE_UPLOAD,
    "filename": "slide-1.svs",
    "size": 734003200,
    "offset": 0,
    "part_size": 16777216,
    "complete": False,
    "kind": None,
    "slide": None,
    "expires": "2026-03-02T09:30:00Z",
}
_PART_SENT = _BEGUN | {"offset": 16777216}
_WHOLE = _BEGUN | {"offset": 734003200, "complete": True, "kind": "slide", "slide": EXAMPLE_UPLOAD}

_SUMMARY = {
    "name": "breast",
    "default": True,
    "run": "3f2a9c51d07b",
    "version": 2,
    "pinned": False,
    "refused": None,
    "mode": "class-incremental",
    "classes": ["breast/normal", "breast/tumour"],
    "tasks": [{"name": "breast", "labels": ["normal", "tumour"], "negative": "normal", "threshold": 0.5, "stage": 0}],
    "contract": {
        "encoder": "resnet-50",
        "weights_hash": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "dimension": 2048,
        "mpp": 0.5,
        "tile_size": 256,
        "reading": {},
        "joined_mpp": [],
        "code_sha256": None,
    },
}
_MODELS = {
    "items": [_SUMMARY],
    "unusable": [],
    "slides": True,
    "max_upload_bytes": 2147483648,
    "max_instances": 500000,
    "notice": NOTICE,
}


def _version(number: int, accuracy: float) -> dict[str, Any]:
    return {
        "version": number,
        "created": f"2026-0{number}-01T09:30:00+00:00",
        "tasks": ["breast"],
        "adapters": ["001-breast"],
        "metrics": {"bag": {"class_incremental": {"accuracy": {"breast": accuracy}}}},
        "answers": False,
        "loaded": False,
    }


_ANSWERING = {"answers": True, "loaded": True}
_NEWEST = _SUMMARY | {"versions": [_version(2, 0.94) | _ANSWERING, _version(1, 0.91)], "notice": NOTICE}
_ROLLED_BACK = _SUMMARY | {
    "version": 1,
    "pinned": True,
    "versions": [_version(2, 0.94), _version(1, 0.91) | _ANSWERING],
    "notice": NOTICE,
}

_SLIDES = {
    "items": [{"id": EXAMPLE_SLIDE, "name": "slide-1.svs", "root": 0, "size_bytes": 412336128}],
    "total": 1,
    "unlisted": 0,
    "next": None,
}
_SLIDE = {
    "id": EXAMPLE_SLIDE,
    "name": "slide-1.svs",
    "width": 46000,
    "height": 32914,
    "mpp_x": 0.25,
    "mpp_y": 0.25,
    "bounds": None,
    "version": "9b0d1f4c3a5e7f2011aa22bb",
    "tile_size": 512,
    "tile_overlap": 1,
    "min_level": 0,
    "max_level": 16,
}

REQUESTS: dict[str, Examples] = {
    "predict": {
        "slide": {"slide": "case-7/slide-1.svs"},
        "slide of a task, with its resolution": {"slide": "case-7/slide-1.svs", "task": "breast", "mpp": 0.25},
        "upload": {"upload": EXAMPLE_UPLOAD, "webhook": "https://lims.example.org/comel"},
    },
    "choose_version": {"roll back": {"version": 1}, "follow the newest": {"version": None}},
    "create_upload": {"slide": {"filename": "slide-1.svs", "size": 734003200}},
}

ANSWERS: dict[tuple[str, int], Examples] = {
    ("health", 200): {"well": {"status": "ok"}},
    ("readiness", 200): {
        "ready": {"status": "ok", "warnings": []},
        "ready with a warning": {
            "status": "ok",
            "warnings": ["model breast: version 3 cannot be used, version 2 answers"],
        },
    },
    ("list_models", 200): {"one model": _MODELS},
    ("read_model", 200): {"two versions": _NEWEST},
    ("choose_version", 200): {"rolled back": _ROLLED_BACK},
    ("predict", 201): {"of a bag": _OF_A_BAG},
    ("predict", 202): {"accepted": _QUEUED},
    ("list_predictions", 200): {"last page": _PREDICTIONS},
    ("read_prediction", 200): {"of a slide": _PREDICTION},
    ("read_instances", 200): {"three tiles": {"id": EXAMPLE_ID, "instances": _INSTANCES, "notice": NOTICE}},
    ("read_tiles", 200): {"the strongest": _TILES},
    ("read_geojson", 200): {"one tile": _GEOJSON},
    ("read_raster_place", 200): {"three tiles": _RASTER},
    ("list_jobs", 200): {"last page": {"items": [_RUNNING, _DONE], "next": None}},
    ("read_job", 200): {"queued": _QUEUED, "running": _RUNNING, "done": _DONE, "failed": _FAILED},
    ("cancel_job", 200): {"cancelled": _CANCELLED},
    ("create_upload", 201): {"begun": _BEGUN},
    ("send_part", 200): {"first part": _PART_SENT, "last part": _WHOLE},
    ("read_upload", 200): {"under way": _PART_SENT},
    ("list_slides", 200): {"last page": _SLIDES},
    ("read_slide", 200): {"whole slide": _SLIDE},
}
