"""Prediction: from bags, manifests and other tools' files to JSON, maps, GeoJSON and one table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import comel
from comel.bags.bag import Bag, read_bag, write_bag
from comel.errors import BagError, ComelError, ConfigError, FeatureMismatch
from comel.prediction.prediction import Prediction, read_prediction
from comel.prediction.predictor import Predictor
from tests.comel.toys import CONTRACT, DIMENSION, FINETUNE, Stream, make_bag, scores_of, tree, write_manifest

Cli = Callable[..., tuple[int, str, str]]


def only(results: list[Prediction | ComelError]) -> list[Prediction]:
    assert all(isinstance(result, Prediction) for result in results)
    return [result for result in results if isinstance(result, Prediction)]


def test_files_of_a_prediction(toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    slides = ["colon-07", "kidney-06"]
    code, out, said = comel_cli(
        "predict", toy_run, *map(toy_stream.bag, slides), "--out", tmp_path / "out", "--width", 300, "-q"
    )
    assert (code, said) == (0, "")
    assert "colon-07: colon/tumour (" in out
    assert tree(tmp_path / "out").keys() == {"predictions.csv"} | {
        f"{slide}.{ending}" for slide in slides for ending in ("json", "png", "geojson")
    }
    prediction = read_prediction(tmp_path / "out" / "colon-07.json")
    assert prediction.predicted_class == "colon/tumour"
    assert prediction.positive
    with Image.open(tmp_path / "out" / "colon-07.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 300
    features = json.loads((tmp_path / "out" / "colon-07.geojson").read_text())["features"]
    assert len(features) == prediction.positive_instances > 0
    table = pandas.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table["slide_id"]) == slides
    assert list(table["label"]) == ["tumour", "normal"]
    assert table["confidence"].iloc[0] == pytest.approx(prediction.confidence)
    probabilities = table[[column for column in table if column.startswith("p:")]]
    assert probabilities.shape == (2, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_json_and_parquet(toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    code, out, said = comel_cli(
        "predict", toy_run, toy_stream.bag("colon-07"), toy_stream.bag("colon-06"),
        "--out", tmp_path / "out", "--table", tmp_path / "table.parquet", "--json",
    )  # fmt: skip
    assert (code, said) == (0, "")
    told = json.loads(out)
    assert [entry["slide_id"] for entry in told] == ["colon-07", "colon-06"]
    table = pandas.read_parquet(tmp_path / "table.parquet")
    assert list(table["confidence"]) == pytest.approx([entry["confidence"] for entry in told])
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("task", ["colon", "kidney"])
def test_a_normal_slide_stays_dark_and_a_tumour_lights_up_where_it_is(toy_run: Path, toy_stream: Stream, task: str) -> None:
    predictor = Predictor.open(toy_run)
    for slide in toy_stream.slides(task=task, split="test", label="normal"):
        prediction = predictor.predict(read_bag(toy_stream.bag(slide)))
        assert prediction.predicted_class == f"{task}/normal"
        assert prediction.instance_scores.max() < prediction.threshold
        assert prediction.positive_instances == 0
    for slide in toy_stream.slides(task=task, split="test", label="tumour"):
        bag = read_bag(toy_stream.bag(slide))
        prediction = predictor.predict(bag)
        assert bag.labels is not None
        assert prediction.predicted_class == f"{task}/tumour"
        assert prediction.instance_scores[bag.labels == 1].mean() > prediction.instance_scores[bag.labels == 0].mean()


def test_with_the_task_given_the_answer_is_within_it_and_says_so(toy_run: Path, toy_stream: Stream) -> None:
    predictor, bag = Predictor.open(toy_run), read_bag(toy_stream.bag("colon-07"))
    free, given = predictor.predict(bag), predictor.predict(bag, task="kidney")
    assert (free.mode, given.mode) == ("class-incremental", "task-incremental")
    assert given.task == "kidney"
    assert given.probabilities is not None
    assert given.probabilities[:2].tolist() == [0, 0]
    assert given.probabilities.sum() == pytest.approx(1)
    for said in (free, given):  # the map of the class is the map of the slide
        shown = predictor.class_names[1 if said is free else 3]
        np.testing.assert_allclose(said.scores_of(shown), said.instance_scores, atol=1 / 500)
    assert not given.scores_of("colon/tumour").any()
    with pytest.raises(ConfigError, match="has no task 'liver'; it knows colon, kidney"):
        predictor.predict(bag, task="liver")


def test_prediction_does_not_depend_on_what_was_predicted_before(toy_run: Path, toy_stream: Stream) -> None:
    predictor, bag = Predictor.open(toy_run), read_bag(toy_stream.bag("colon-07"))
    first = predictor.predict(bag).to_dict()
    for slide in toy_stream.slides(split="val"):
        predictor.predict(read_bag(toy_stream.bag(slide)))
    assert predictor.predict(bag).to_dict() == first == Predictor.open(toy_run).predict(bag).to_dict()


def test_half_precision_features_are_taken(toy_run: Path, toy_stream: Stream) -> None:
    bag = read_bag(toy_stream.bag("colon-07"))
    whole = Predictor.open(toy_run).predict(bag)
    half = Predictor.open(toy_run).predict(replace(bag, features=bag.features.astype(np.float16)))
    np.testing.assert_allclose(half.instance_scores, whole.instance_scores, atol=0.02)


@pytest.mark.parametrize("instances", [0, 1, 2, 3])
def test_bags_of_a_few_instances(toy_run: Path, tmp_path: Path, instances: int, comel_cli: Cli) -> None:
    write_bag(tmp_path / "tiny.h5", make_bag("tiny", np.ones((instances, DIMENSION))))
    code, out, said = comel_cli("predict", toy_run, tmp_path / "tiny.h5", "--out", tmp_path / "out", "-q")
    assert (code, said) == (0, "")
    prediction = read_prediction(tmp_path / "out" / "tiny.json")
    assert len(prediction.instance_scores) == instances
    assert (prediction.label is None) == (instances == 0)
    if not instances:
        assert "nothing: no tissue" in out
        assert prediction.notes == ("no tissue",)
    with Image.open(tmp_path / "out" / "tiny.png") as picture:
        picture.load()
    json.loads((tmp_path / "out" / "tiny.geojson").read_text())


def test_a_manifest_with_bags(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    rows = [row for row in toy_stream.rows if row["task"] == "colon" and row["split"] == "test"]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    results = only(comel.predict(toy_run, [manifest], tmp_path / "out", bags=toy_stream.bags, quiet=True))
    assert [result.slide_id for result in results] == [row["slide_id"] for row in rows]


def test_one_bad_bag_does_not_stop_the_others(toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    rows = [row for row in toy_stream.rows if row["task"] == "colon" and row["split"] == "test"]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    bags = tmp_path / "bags"
    bags.mkdir()
    truncated, missing, mismatched, good = (row["slide_id"] for row in rows)
    (bags / f"{truncated}.h5").write_bytes(toy_stream.bag(truncated).read_bytes()[:2000])
    write_bag(bags / f"{mismatched}.h5", make_bag("x", np.ones((3, DIMENSION)), contract=replace(CONTRACT, encoder="uni")))
    shutil.copy(toy_stream.bag(good), bags)
    code, out, said = comel_cli("predict", toy_run, manifest, "--bags", bags, "--out", tmp_path / "out", "-q")
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()[:1]] == [good]
    assert len(said.splitlines()) == 3
    assert "Traceback" not in said
    table = pandas.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table["slide_id"]) == [truncated, missing, mismatched, good]
    assert list(table["error"].notna()) == [True, True, True, False]
    assert "truncated" in table["error"][0]
    assert "no features of slide" in table["error"][1]
    assert "encoder uni instead of toy" in table["error"][2]
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {good}


def at_twice_the_mpp() -> Bag:
    bag = make_bag("x", np.ones((3, DIMENSION)))
    assert bag.geometry is not None
    return replace(bag, geometry=replace(bag.geometry, mpp_x=1.0, mpp_y=1.0))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), BagError, "truncated or not HDF5"),
        (lambda path: path.unlink(), ConfigError, "no such file"),
        (
            lambda path: write_bag(path, make_bag("x", np.ones((3, 16)), contract=replace(CONTRACT, dimension=16))),
            FeatureMismatch,
            "dimension 16 instead of 32",
        ),
        (
            lambda path: write_bag(path, make_bag("x", np.ones((3, DIMENSION)), contract=replace(CONTRACT, encoder="uni"))),
            FeatureMismatch,
            "encoder uni instead of toy",
        ),
        (lambda path: write_bag(path, at_twice_the_mpp()), FeatureMismatch, "tiles at 1 um/px instead of 0.5"),
    ],
)
def test_a_single_bad_bag_is_one_line(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli,
    damage: Callable[[Path], object], error: type[ComelError], said: str,
) -> None:  # fmt: skip
    path = Path(shutil.copy(toy_stream.bag("colon-06"), tmp_path))
    damage(path)
    code, _, told = comel_cli("predict", toy_run, path, "--out", tmp_path / "out", "-q")
    assert code == 2
    assert said in told
    assert told.startswith("comel: ")
    assert told.count("\n") == 1
    assert tree(tmp_path / "out") == {}
    with pytest.raises(error):
        comel.predict(toy_run, [path], tmp_path / "out", quiet=True)


def test_nan_in_a_file_is_refused(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    path = Path(shutil.copy(toy_stream.bag("colon-06"), tmp_path))
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] = np.nan
    with pytest.raises(BagError, match="NaN"):
        comel.predict(toy_run, [path], tmp_path / "out", quiet=True)


def test_inputs_that_do_not_fit(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    bag = toy_stream.bag("colon-06")
    twin = tmp_path / "colon-06.h5"
    shutil.copy(bag, twin)
    for inputs, options, said in [
        ([], {}, "nothing to predict"),
        ([bag, twin], {}, "would both be 'colon-06'; use two folders"),
        ([bag, toy_stream.bag("colon-07")], {"slide": bag}, "--slide belongs to a single bag"),
        ([bag], {"table": tmp_path / "t.xlsx"}, "written as .csv or .parquet"),
        ([tmp_path / "nowhere.svs"], {}, "no such file"),
        ([bag], {"version": 9}, "no version 9"),
        ([bag], {"task": "liver"}, "has no task 'liver'"),
        ([bag], {"device": "gpu"}, "no device 'gpu'"),
    ]:
        with pytest.raises(ComelError, match=said):
            comel.predict(toy_run, inputs, tmp_path / "out", quiet=True, **options)  # type: ignore[arg-type]
        assert tree(tmp_path / "out") == {}, said


UNREADABLE = r"do not state how they were made, so it cannot read slides|uni: (needs the package timm|the weights cannot)"


def test_a_slide_cannot_be_predicted_where_features_do_not_say_how_they_were_made(
    foreign_run: tuple[Path, Path, list[str]], tmp_path: Path
) -> None:
    slide = tmp_path / "slide.tif"
    Image.new("RGB", (64, 64)).save(slide)
    with pytest.raises(ConfigError, match=UNREADABLE):
        comel.predict(foreign_run[0], [slide], tmp_path / "out", quiet=True)


def write_foreign(folder: Path, layout: str, slide: str, features: np.ndarray, coords: np.ndarray) -> Path:
    """One feature file as TRIDENT, CLAM (h5 or pt) or STAMP writes it."""
    if layout == "clam-pt":
        path = folder / "pt_files" / f"{slide}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(features), path)
        return path
    path = folder / {"trident": "features_uni_v1", "clam": "h5_files", "stamp": "."}[layout] / f"{slide}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if layout == "stamp":
            file["feats"] = features.astype(np.float16)
            file["coords"] = coords / 2.0
            file.attrs.update(extractor="uni", unit="um", tile_size_um=128.0, tile_size_px=224, stamp_version="2.3.0")
        else:
            file["features"] = features[None] if layout == "trident" else features
            file["coords"] = coords[None] if layout == "trident" else coords
        if layout == "trident":
            file["coords"].attrs.update(
                patch_size=256, patch_size_level0=256, level0_magnification=20, target_magnification=20, overlap=0,
                name=slide, level0_width=1536, level0_height=2048,
            )  # fmt: skip
    return path


@pytest.fixture(scope="module", params=["trident", "clam", "clam-pt", "stamp"])
def foreign_run(
    request: pytest.FixtureRequest, toy_stream: Stream, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[str]]:
    """A run trained on another tool's files as they are: the run, the features' folder, and the test slides."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = [row for row in toy_stream.rows if row["task"] == "colon"]
    for row in rows:
        bag = read_bag(toy_stream.bag(row["slide_id"]))
        assert bag.coords is not None
        write_foreign(folder / "features", request.param, row["slide_id"], bag.features, bag.coords)
    stream = Stream(write_manifest(folder / "m.csv", rows), folder / "features", rows)
    run = comel.train(stream.settings(FINETUNE, epochs=8, lr=3e-3), folder / "run", quiet=True)
    return run, stream.bags, stream.slides(split="test")


def test_other_tools_files_train_and_predict_without_conversion(
    foreign_run: tuple[Path, Path, list[str]], tmp_path: Path
) -> None:
    run, features, slides = foreign_run
    assert scores_of(run)["continual"]["bag"]["class_incremental"]["accuracy"]["final_average"] == 1
    files = [next(features.rglob(f"{slide}.*")) for slide in slides]
    results = only(comel.predict(run, files, tmp_path / "out", quiet=True))
    assert [result.label for result in results] == ["normal", "tumour", "normal", "tumour"]
    assert all((tmp_path / "out" / f"{slide}.json").exists() for slide in slides)
    has_map = files[0].suffix != ".pt"
    assert all((tmp_path / "out" / f"{slide}.png").exists() == has_map for slide in slides)


def test_a_file_that_does_not_name_its_encoder(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    bag = read_bag(toy_stream.bag("colon-07"))
    assert bag.coords is not None
    path = write_foreign(tmp_path, "clam", "colon-07", bag.features, bag.coords)
    with pytest.raises(FeatureMismatch, match="encoder not stated instead of toy; if the features are from it"):
        comel.predict(toy_run, [path], tmp_path / "out", quiet=True)
    (result,) = only(comel.predict(toy_run, [path], tmp_path / "out", assume_encoder="toy", quiet=True))
    assert result.predicted_class == "colon/tumour"


def test_damaged_pickles_are_refused(toy_run: Path, tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"features": print}, protocol=2))
    with pytest.raises(BagError):
        comel.predict(toy_run, [path], tmp_path / "out", quiet=True)
