"""``comel bench continual`` from end to end on tiny streams."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from comel.app.benchmark.continual import run_continual
from comel.app.benchmark.runner import RowResult, _outcome
from comel.app.benchmark.table import markdown, summarise
from comel.base.files import read_json
from comel.base.killable import Fault
from comel.base.workers import WorkerPool
from comel.errors import ConfigError, RunError
from tests.calls_here import PoolInThisProcess
from tests.comel.app.benchmark.tiny_benchmark import CUT, Stub, cohort, write_config
from tests.comel.toys import scores_of
from tests.failing import failing

ROWS = ["mean", "mine", "no-targets", "no-room"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("comel.app.benchmark.runner.WorkerPool", PoolInThisProcess)
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A finished benchmark of two seeds: its folder, its configuration and what it returned. Read only."""
    folder = tmp_path_factory.mktemp("bench")
    config = write_config(folder / "config")
    return folder / "out", config, run_continual("features", folder / "out", seeds=[0, 1], rows=ROWS, config=config, quiet=True)


@pytest.fixture
def copied(tmp_path: Path, bench: tuple[Path, Path, dict[str, Any]]) -> tuple[Path, Path]:
    """The folder of streams in a place where nothing is trained, and the configuration."""
    for seed in (0, 1):
        shutil.copytree(bench[0] / "features" / f"seed-{seed}" / "stream", tmp_path / "features" / f"seed-{seed}" / "stream")
    return tmp_path, bench[1]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def without_time(results: dict[str, Any]) -> dict[str, Any]:
    """The results without ``seconds_per_task``, the only thing that a clock decides."""
    kept: dict[str, Any] = json.loads(
        json.dumps(results), object_hook=lambda entry: {k: v for k, v in entry.items() if k != "seconds_per_task"}
    )
    return kept


def test_the_table_is_what_the_runs_say(bench: tuple[Path, Path, dict[str, Any]]) -> None:
    out, _, result = bench
    assert [(r["row"], r["seed"]) for r in result["results"]] == [(row, seed) for seed in (0, 1) for row in ROWS]
    for entry in result["results"]:
        if entry["refused"]:
            continue
        metrics = scores_of(out / "features" / f"seed-{entry['seed']}" / "runs" / entry["row"])
        accuracy = np.array(metrics["matrices"]["bag"]["class_incremental"]["accuracy"], dtype=float)
        assert entry["accuracy"] == pytest.approx(accuracy[-1].mean())
        assert entry["forgetting"] == pytest.approx(max(accuracy[0, 0], accuracy[1, 0]) - accuracy[1, 0])
        within = np.array(metrics["matrices"]["bag"]["task_incremental"]["accuracy"], dtype=float)
        assert entry["within_task_accuracy"] == pytest.approx(within[-1].mean())
        for kind, name, measure in (("instance", "auc", "instance_auc"), ("instance", "dice", "dice"), ("bag", "auc", "auc")):
            assert entry[measure] == pytest.approx(
                np.array(metrics["matrices"][kind]["class_incremental"][name], float)[-1].mean()
            )
        seconds = [stage["seconds"] for stage in metrics["stages"]]
        assert entry["seconds_per_task"] == pytest.approx(sum(seconds) / 2)
        assert entry["old_data_bytes"] == 0
        # In the second stage the embedding (16 x 16 and 16) and a head of two classes train.
        assert entry["trained_parameters"] == 16 * 16 + 16 + 2 * 16 + 2


def test_mean_and_sample_spread_over_seeds(bench: tuple[Path, Path, dict[str, Any]]) -> None:
    result = bench[2]
    for row in ("mean", "mine"):
        for measure in ("accuracy", "instance_auc", "dice"):
            one, two = (entry[measure] for entry in result["results"] if entry["row"] == row)
            assert result["rows"][row]["mean"][measure] == pytest.approx((one + two) / 2)
            assert result["rows"][row]["std"][measure] == pytest.approx(abs(one - two) / np.sqrt(2))
    assert result["rows"]["mean"]["seeds"] == [0, 1]
    assert any(result["rows"]["mean"]["std"][m] for m in ("accuracy", "instance_auc", "forgetting"))


def test_a_row_of_ones_own_trains_as_ours_do(bench: tuple[Path, Path, dict[str, Any]]) -> None:
    """``own.py:Plain`` and ``own.py:Mine`` are mean pooling, fine-tuned."""
    mean, mine = ([e for e in without_time(bench[2])["results"] if e["row"] == row] for row in ("mean", "mine"))
    assert [{**entry, "row": "mean"} for entry in mine] == mean


def test_refusals_are_in_the_table_with_their_reasons(bench: tuple[Path, Path, dict[str, Any]]) -> None:
    rows, table = bench[2]["rows"], (bench[0] / "features" / "table.md").read_text()
    assert "strategy 'owlora' adapts linear layers, but the model Plain names none" in rows["no-targets"]["refused"]
    assert rows["no-targets"]["seeds"] == []
    assert rows["no-room"]["refused"]
    assert rows["no-room"]["mean"]["accuracy"] is None
    assert f"| no-targets | refused: {rows['no-targets']['refused']} |" in table
    assert rows["mean"]["refused"] is None


def test_the_files_beside_the_table_hold_the_same(bench: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, result = bench[0] / "features", bench[2]
    assert read_json(folder / "results.json") == json.loads(json.dumps(result))
    with open(folder / "results.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 8
    for line, entry in zip(lines, result["results"], strict=True):
        assert (line["row"], int(line["seed"])) == (entry["row"], entry["seed"])
        assert line["refused"] == (entry["refused"] or "")
        assert (float(line["accuracy"]) if line["accuracy"] else None) == pytest.approx(entry["accuracy"])
    shown = next(line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| mean |"))
    mean, std = result["rows"]["mean"]["mean"]["accuracy"], result["rows"]["mean"]["std"]["accuracy"]
    assert shown.split(" | ")[1] == f"{100 * mean:.1f} ± {100 * std:.1f}"


def test_what_is_finished_is_kept(bench: tuple[Path, Path, dict[str, Any]]) -> None:
    out, config, result = bench
    before = {name: content for name, content in files(out / "features").items() if "seed-" in name and "no-" not in name}
    again = run_continual("features", out, seeds=[0, 1], rows=ROWS, config=config, quiet=True)
    assert again == json.loads(json.dumps(result))
    after = files(out / "features")
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_streams_and_results_are_the_same_in_processes_of_their_own(
    tmp_path: Path, bench: tuple[Path, Path, dict[str, Any]]
) -> None:
    """Another process, two at a time, and the rows the other way round: nothing but the clock differs."""
    out, config, result = bench
    code = f"""
if __name__ == "__main__":
    from pathlib import Path
    from comel.app.benchmark.continual import run_continual
    options = dict(seeds=[1], rows=["mine", "mean"], config=Path({str(config)!r}), jobs=2, quiet=True)
    run_continual("features", Path({str(tmp_path)!r}), **options)
"""
    (tmp_path / "go.py").write_text(code)
    subprocess.run([sys.executable, tmp_path / "go.py"], check=True, timeout=600)
    mine = [entry for entry in without_time(result)["results"] if entry["seed"] == 1 and not entry["refused"]]
    assert without_time(read_json(tmp_path / "features" / "results.json"))["results"] == mine
    here, there = (folder / "features" / "seed-1" / "stream" for folder in (out, tmp_path))
    for path in here.rglob("*.*"):
        assert (there / path.relative_to(here)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("make.difficulty=0.9", "seed-0/stream: holds a stream of other settings or other slides; choose another --out"),
        ("trainer.epochs=3", "mean: holds a finished run of other settings; choose another --out"),
    ],
)
def test_other_settings_over_a_finished_benchmark_are_refused(
    bench: tuple[Path, Path, dict[str, Any]], override: str, said: str
) -> None:
    out, config, _ = bench
    before = files(out)
    with pytest.raises(RunError) as error:
        run_continual("features", out, seeds=[0], rows=["mean"], config=config, overrides=[override], quiet=True)
    assert said in str(error.value)
    assert files(out) == before


def test_a_stream_that_was_not_finished_is_made_again(copied: tuple[Path, Path]) -> None:
    out, config = copied
    stream = out / "features" / "seed-0" / "stream"
    bag = next((stream / "bags").iterdir())
    manifest, content = (stream / "manifest.csv").read_bytes(), bag.read_bytes()
    (stream / "manifest.csv").unlink()
    bag.unlink()
    with pytest.raises(RunError, match="holds a stream of other settings"):
        run_continual("features", out, seeds=[0], rows=["no-room"], config=config, overrides=["make.test=8"], quiet=True)
    run_continual("features", out, seeds=[0], rows=["no-room"], config=config, quiet=True)
    assert ((stream / "manifest.csv").read_bytes(), bag.read_bytes()) == (manifest, content)
    (stream / "settings.json").unlink()
    with pytest.raises(RunError, match="holds a stream of other settings"):
        run_continual("features", out, seeds=[0], rows=["no-room"], config=config, quiet=True)


def test_a_row_that_was_interrupted_goes_on(copied: tuple[Path, Path]) -> None:
    out, config = copied
    run = out / "features" / "seed-0" / "runs" / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run_continual("features", out, seeds=[0], rows=["interrupted"], config=config, quiet=True)
    first = run / "versions" / "001"
    before = files(first)
    assert before
    assert not scores_of(run)["finished"]
    own = config.parent / "own.py"
    broken = own.read_text()
    try:
        own.write_text(broken.replace("raise KeyboardInterrupt", "pass"))
        result = run_continual("features", out, seeds=[0], rows=["interrupted", "mean"], config=config, quiet=True)
    finally:
        own.write_text(broken)
    assert files(first) == before
    plain, interrupted = without_time(result)["results"]
    assert {**interrupted, "row": "mean"} == plain


def test_a_defect_names_its_row(copied: tuple[Path, Path]) -> None:
    out, config = copied
    with pytest.raises(RuntimeError, match=r"row 'broken', seed 1: ZeroDivisionError: a defect"):
        run_continual("features", out, seeds=[1], rows=["broken"], config=config, quiet=True)


def test_a_training_that_is_killed_says_what_to_do() -> None:
    killed: Future[str | None] = Future()
    with WorkerPool() as pool, failing(Fault.DIED) as caught:
        pool.call(os._exit, 9)
    killed.set_exception(caught.value)
    with pytest.raises(RunError, match="a training was killed, perhaps for lack of memory; give the same command again"):
        _outcome(killed, "row 'mean', seed 0")


def test_a_reason_with_a_bar_stays_in_its_cell() -> None:
    refused = RowResult("row", "group", 0, {}, "a|b")
    assert markdown(summarise([refused])).splitlines()[-1] == r"| row | refused: a\|b |"


def test_json_and_exit_code(bench: tuple[Path, Path, dict[str, Any]], comel_cli: Cli) -> None:
    out, config, result = bench
    arguments = ("bench", "continual", "--out", out, "--config", config, "--seeds", 2, "--rows", ",".join(ROWS))
    code, said, _ = comel_cli(*arguments, "--json")
    assert code == 0
    assert json.loads(said) == json.loads(json.dumps(result))
    code, said, _ = comel_cli(*arguments, "--quiet")
    assert code == 0
    assert (out / "features" / "table.md").read_text() in said
    assert "refused: strategy 'owlora' adapts linear layers" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "featurs"], "comel: no suite 'featurs'; did you mean 'features'?"),
        (["--suite", "composite"], "comel: composite: no slides are named; give --slides manifest.csv"),
        (["--suite", "crchisto"], "comel: crchisto: no cells are named; give --archive crchisto.npz"),
        (["--suite", "crchisto", "--archive", "nothing.npz"], "comel: nothing.npz: no such file"),
        (["--suite", "composite", "--slides", "nothing.csv"], "comel: nothing.csv: No such file or directory"),
        (["--rows", "comell"], "comel: --rows: no row or group 'comell'; did you mean 'comel'?"),
        (["--set", "make.dificulty=1"], "comel: features: make: unknown key 'dificulty'; did you mean 'difficulty'?"),
        (["--set", "model.dimm=16"], "comel: features: no model has an option 'dimm'; did you mean 'dim'?"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(tmp_path: Path, comel_cli: Cli, arguments: list[str], said: str) -> None:
    code, out, err = comel_cli("bench", "continual", "--out", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folds_of_real_cells_are_pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.metrics import roc_auc_score

    monkeypatch.setattr("pipelines.patch_encoders.load_encoder", lambda name, device="auto": Stub())
    generator = np.random.default_rng(1)
    patients = np.repeat(np.arange(24), 3)
    images = generator.integers(0, 255, (72, 27, 27, 3)).astype(np.uint8)
    archive = tmp_path / "cells.npz"
    np.savez(archive, images=images, patient_id=patients, is_cancerous=patients % 2)
    options: dict[str, Any] = {"seeds": [0], "rows": ["mean"], "config": write_config(tmp_path), "quiet": True}
    result = run_continual("crchisto", tmp_path, archive=archive, **options)["results"][0]

    run = tmp_path / "crchisto" / "seed-0" / "runs" / "mean"
    with open(run / "folds.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert sorted(int(line["patient_id"]) for line in lines) == list(range(24))
    areas = []
    for task in ("as-scanned", "h_heavy"):
        mine = [line for line in lines if line["task"] == task]
        probability = [float(next(v for k, v in line.items() if k.startswith("p:") and "tumour" in k)) for line in mine]
        areas.append(roc_auc_score([line["label"] == "tumour" for line in mine], probability))
    assert result["pooled_auc"] == pytest.approx(np.mean(areas))
    assert result["pooled_auc_low"] <= result["pooled_auc"] <= result["pooled_auc_high"]
    folds = [scores_of(run / f"fold-{fold}") for fold in (0, 1)]
    accuracy = [np.array(m["matrices"]["bag"]["domain_incremental"]["accuracy"], float)[-1].mean() for m in folds]
    assert result["accuracy"] == pytest.approx(np.mean(accuracy))
    assert result["within_task_accuracy"] is None

    with pytest.raises(RunError, match=r"row 'mean', seed 0: .*other settings"):
        run_continual("crchisto", tmp_path, archive=archive, overrides=["trainer.epochs=1"], **options)
    np.savez(archive, images=255 - images, patient_id=patients, is_cancerous=patients % 2)
    with pytest.raises(RunError, match="stream: holds a stream of other settings or other slides"):
        run_continual("crchisto", tmp_path, archive=archive, **options)


def test_the_composite_stream_comes_from_the_extracted_slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Report:
        failed = False

    def extract(manifest: Path, out: Path, **settings: Any) -> Report:
        asked.append({**settings, "manifest": manifest})
        cohort(out.parent, CUT)
        return Report()

    monkeypatch.setattr("comel.app.api.extract", extract)
    slides = cohort(tmp_path, CUT)
    options: dict[str, Any] = {"seeds": [0], "rows": ["no-room"], "config": write_config(tmp_path), "quiet": True}
    tiny = ["make.train=4", "make.val=2", "make.test=2", "make.tiles=[8, 14]"]
    run_continual("composite", tmp_path, slides=slides, overrides=tiny, **options)
    assert asked == [{"manifest": slides, "root": None, "quiet": True, "target_mpp": 1.0}]
    assert len(list((tmp_path / "composite" / "seed-0" / "stream" / "bags").iterdir())) == 16
    run_continual("composite", tmp_path, slides=slides, overrides=tiny, **options)
    assert len(asked) == 1
    for change in ("extract.target_mpp=0.5", "make.test=4"):
        with pytest.raises(RunError, match="holds a stream of other settings"):
            run_continual("composite", tmp_path, slides=slides, overrides=[*tiny, change], **options)
    assert len(asked) == 1


def test_slides_that_cannot_be_extracted_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = SimpleNamespace(slide="colitis", reason="no mpp", remedy="give --assume-mpp")
    monkeypatch.setattr("comel.app.api.extract", lambda *a, **k: SimpleNamespace(failed=1, failures=[failure]))
    with pytest.raises(ConfigError, match=r"colitis: no mpp; give --assume-mpp; all failures: .*slides/failures\.csv"):
        run_continual(
            "composite",
            tmp_path,
            seeds=[0],
            slides=cohort(tmp_path, CUT),
            config=write_config(tmp_path),
            rows=["mean"],
            quiet=True,
        )
