"""The plan: what decides the weights and nothing else, the same hash as in version 0.1.0."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from comel.base.settings import parse_section
from comel.cohort.manifest import read_manifest
from comel.runs.config import RunConfig
from comel.runs.directory import RunDirectory
from comel.runs.parts import resolved
from comel.training.plan import plan_of, stored_plan
from tests.comel.toys import Stream, write_manifest


def config_of(stream: Stream, **changes: dict[str, Any]) -> RunConfig:
    values = stream.settings()
    config: RunConfig = parse_section(
        RunConfig, {name: {**section, **changes.get(name, {})} for name, section in values.items()}, "settings"
    )
    return resolved(config)


def test_the_hash_is_that_of_version_0_1_0(toy_stream: Stream) -> None:
    """By its definition, in full: an unfinished run of that version goes on only if this stays as it is."""
    config, manifest = config_of(toy_stream), read_manifest(toy_stream.manifest)
    values = json.loads(config.model_dump_json())
    for name in ("device", "threads", "checkpoint_seconds"):
        del values["trainer"][name]
    del values["data"]["cache_gib"]
    for name in ("mixer", "mixer_options", "mlp", "paths", "pooling", "pooling_options"):  # which it did not have
        del values["model"][name]
    values["trainer"]["precision"] = {"float32": "fp32", "bfloat16": "bf16"}[values["trainer"]["precision"]]
    values["data"] |= {"manifest": str(toy_stream.manifest.resolve()), "bags": str(toy_stream.bags.resolve())}
    content = hashlib.sha256(toy_stream.manifest.read_bytes()).hexdigest()
    whole = json.dumps([values, content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert plan_of(config, manifest) == hashlib.sha256(whole.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"trainer": {"device": "cuda", "threads": 3, "checkpoint_seconds": 1}, "data": {"cache_gib": 0}}, True),
        ({"trainer": {"epochs": 4}}, False),
        ({"trainer": {"seed": 4}}, False),
        ({"model": {"dim": 16}}, False),
        ({"strategy": {"rank": 5}}, False),
        ({"data": {"tasks": ["kidney"]}}, False),
        ({"data": {"fold": 1}}, False),
    ],
    ids=str,
)
def test_what_decides_the_weights_is_part_of_it(toy_stream: Stream, changes: dict[str, dict[str, Any]], same: bool) -> None:
    manifest = read_manifest(toy_stream.manifest)
    assert (plan_of(config_of(toy_stream), manifest) == plan_of(config_of(toy_stream, **changes), manifest)) is same


def test_the_bytes_of_the_manifest_are_part_of_it(toy_stream: Stream, tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.csv", toy_stream.rows)
    config = config_of(toy_stream, data={"manifest": path})
    before = plan_of(config, read_manifest(path))
    path.write_text(path.read_text() + "\n")
    assert plan_of(config, read_manifest(path)) != before


def test_the_stored_plan_is_the_newest_start_s(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    import shutil

    run = RunDirectory(Path(shutil.copytree(toy_run, tmp_path / "run")))
    manifest = read_manifest(toy_stream.manifest)
    plan = stored_plan(run, manifest)
    run.event("start", plan="another", notes=["labels with what some take for the end of a line: \u2028 \x85"])
    assert stored_plan(run, manifest) == "another"
    (run.path / "events.jsonl").unlink()
    assert stored_plan(run, manifest) == plan
