"""``comel bench mixers``: its checks, costs, index and tables, and the command as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from comel.app.benchmark.mixers import checks
from comel.app.benchmark.mixers.checks import CHECKS, check_mixer
from comel.app.benchmark.mixers.cost import Cost, crossing, efficiency_length, growth, measure_costs
from comel.app.benchmark.mixers.index import indices, reference, reference_of
from comel.app.benchmark.mixers.quality import fit_parameters, mixer_rows
from comel.app.benchmark.mixers.tissue import draw_tissue
from comel.app.cli import app
from comel.errors import ConfigError
from comel.nn.layout.layout import Layout
from comel.nn.mixers import MIXERS
from comel.nn.mixers.base import Mixer, Width
from comel.nn.mixers.identity import Identity
from tests.comel.nn.mixers.seeds import Seed


@pytest.mark.parametrize("count", [1, 2, 300, 5000])
def test_tissue_is_distinct_tiles_with_holes(count: int) -> None:
    coords = draw_tissue(count)
    assert coords.shape == (count, 2)
    assert len(np.unique(coords, axis=0)) == count
    assert np.array_equal(coords, draw_tissue(count))
    if count > 100:
        cells = coords // 256
        box = np.prod(np.ptp(cells, axis=0) + 1)
        assert 0.3 < count / box < 0.95
        near = Layout((1, count), torch.from_numpy(coords)[None]).neighbours(3)
        assert (near < count).float().mean() > 0.6  # pieces, not dust


@pytest.mark.parametrize("name", ["gdat", "hilo"])
def test_mixers_pass_every_check(name: str) -> None:
    assert all(check_mixer(name).values())


class _Peeking(Identity):
    """Looks at the list's next row, of whichever bag."""

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.roll(x, 1, dims=0)


class _Padded(Identity):
    """Sees padding."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return x.mean(dim=1, keepdim=True).expand_as(x)


class _Absolute(Identity):
    """Knows where the slide lies."""

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        assert layout._coords is not None
        return x + layout._coords[:, :1]


@pytest.mark.parametrize(
    ("kind", "failing"),
    [(_Peeking, {"batch", "padding", "shuffle"}), (_Padded, {"batch", "padding", "holes"}), (_Absolute, {"shift"})],
)
def test_mixers_that_do_what_they_must_not_fail(kind: type[Mixer], failing: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "make_mixer", lambda name, width, options: kind(width))
    wrong = {title: check for title, check in CHECKS.items() if title != "no coords"}
    monkeypatch.setattr(checks, "CHECKS", wrong)
    found = check_mixer("any")
    assert {title for title, passed in found.items() if not passed} == failing


def costs(times: dict[int, float]) -> list[Cost]:
    return [Cost(tiles, 0.0, seconds, None, None) for tiles, seconds in times.items()]


def test_growth_and_crossing_of_curves_that_are_known() -> None:
    lengths = [1 << n for n in range(8, 19)]
    square = costs({m: 1e-9 * m**2 for m in lengths})
    line = costs({m: 1e-5 * m for m in lengths})
    assert growth(square) == pytest.approx(2)
    assert growth(line) == pytest.approx(1)
    assert growth(square[:3]) is None
    assert crossing(line, square) == pytest.approx(1e4, rel=1e-6)
    assert crossing(square, line) == "never"
    assert crossing(costs(dict.fromkeys(lengths, 1e-06)), square[8:]) == "always"
    assert crossing(line[:1], square) is None


def test_efficiency_lengths_equal_the_published_ones() -> None:
    seed = Seed("cab")
    lengths = seed["lengths"].tolist()
    found = efficiency_length(lengths, seed["time_vanilla_ms"].tolist(), seed["time_abc_ms"].tolist(), skip=1)
    assert found == pytest.approx(float(seed["y_time"][0]), rel=1e-6)
    found = efficiency_length(lengths, seed["memory_vanilla_mb"].tolist(), seed["memory_abc_mb"].tolist())
    assert found == pytest.approx(float(seed["y_memory"][0]), rel=1e-4)
    assert efficiency_length([1, 2, 3, 4], [1, 4, 9, 16], [-5, -5, -5, -5]) is None


def test_indices_equal_published_z_scores() -> None:
    seed = Seed("cab")
    for task in range(4):
        at = (seed["task_0"] == task).nonzero().flatten().tolist()
        spread = {str(i): {"mu": float(seed["mean_0"][i]), "sigma": float(seed["std_0"][i] * seed["sign_0"][i])} for i in at}
        means = {"suite": {"plain": {str(i): float(seed["x_scores_0"][i]) for i in at}}}
        assert indices(means, {"suite": spread})["plain"]["index"] == pytest.approx(float(seed["y_task_0"][task]), abs=1e-9)


def test_an_index_is_over_the_suites_that_all_have() -> None:
    means = {
        "a": {"one": {"within_task_accuracy": 0.5, "auc": 0.5}, "two": {"within_task_accuracy": 0.9, "auc": 0.5}},
        "b": {"one": {"within_task_accuracy": 0.2}, "two": {"within_task_accuracy": None}},
    }
    against = reference_of(means)  # type: ignore[arg-type]
    assert set(against) == {"a"}  # of b there is one value, and of a's AUC no spread
    found = indices(means, against)  # type: ignore[arg-type]
    assert found["two"]["a"] == pytest.approx(-found["one"]["a"])
    assert "index" not in found["one"]


def test_costs_are_measured_and_foreseen() -> None:
    seen: list[Cost] = []
    found, stopped = measure_costs("gdat", [64, 128, 256], width=Width(16, 2), repeats=1, done=seen.append)
    assert [cost.tiles for cost in found] == [64, 128, 256]
    assert seen == found
    assert stopped is None
    assert all(cost.forward > 0 and cost.backward is not None and cost.backward > 0 for cost in found)
    found, stopped = measure_costs("gdat", [64, 1 << 30], width=Width(16, 2), repeats=1)
    assert [cost.tiles for cost in found] == [64]
    assert stopped is not None
    assert "would take about" in stopped


def test_every_mixer_is_brought_to_the_size_of_gdat_or_said_not_to_be() -> None:
    for name in MIXERS:
        fit = fit_parameters(name, 128, 4)
        assert fit.parameters > 0
        assert fit.fair == (0.9 <= fit.share <= 1.1)
    rows = mixer_rows(["identity", "hilo"], 128, 4, {"hilo": {"window": 3}})
    assert [row.name for row in rows] == ["identity", "hilo"]
    assert rows[1].model["mixer_options"] == {"hilo": {"window": 3}}
    assert rows[0].model["mlp_ratio"] > rows[1].model["mlp_ratio"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("bench")
    small = ["make.tasks=2", "make.dimension=16", "make.train=6", "make.val=2", "make.test=6", "make.tiles=[10, 16]"]
    small += ["model.dim=16", "model.num_heads=2", "model.attention_hidden=8", "trainer.epochs=1"]
    words = ["bench", "mixers", "--out", str(out), "--mixers", "identity,gdat,hilo", "--max-tiles", "1024", "--seeds", "1"]
    words += ["--suites", "features", "--jobs", "1", "--threads", "1"]
    words += [word for one in small for word in ("--set", one)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out, words


def test_the_command_writes_tables_plots_and_numbers(done: tuple[Path, list[str]]) -> None:
    out, words = done
    text = (out / "mixers.md").read_text()
    for part in ("## What each keeps to", "## What a block costs", "## What it gives", "| hilo |"):
        assert part in text
    assert (out / "cost.png").stat().st_size > 10_000
    assert (out / "quality.png").stat().st_size > 5_000
    content = json.loads((out / "mixers.json").read_text())
    assert all(all(found.values()) for found in content["checks"].values())
    assert [cost["tiles"] for cost in content["cost"]["hilo"]] == [256, 512, 1024]
    assert set(content["quality"]["features"]) == {"identity", "gdat", "hilo"}
    times = {path: path.stat().st_mtime_ns for path in (out / "cost").iterdir()}
    again = CliRunner().invoke(app, words, catch_exceptions=False)  # nothing is measured or trained again
    assert again.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cost").iterdir()} == times
    assert json.loads((out / "mixers.json").read_text())["quality"] == content["quality"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mixers", "hillo"], "did you mean 'hilo'"),
        (["--parts", "checks,costs"], "did you mean 'cost'"),
        (["--suites", "feature"], "did you mean 'features'"),
        (["--max-tiles", "10"], "give 256 or more"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(more: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["bench", "mixers", "--out", str(tmp_path / "out"), *more], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_mix(done: tuple[Path, list[str]]) -> None:
    out, _ = done
    result = CliRunner().invoke(
        app, ["bench", "mixers", "--out", str(out), "--parts", "cost", "--mixers", "gdat", "--max-tiles", "512"]
    )
    assert result.exit_code != 0
    assert "measured with other settings" in str(result.exception)


def test_mixers_are_listed_with_their_options() -> None:
    listed = CliRunner().invoke(app, ["mixers"], catch_exceptions=False).stdout
    assert all(name in listed for name in MIXERS)
    one = CliRunner().invoke(app, ["mixers", "hilo"], catch_exceptions=False).stdout
    assert "model.mixer_options.hilo.window=7" in one
    found = json.loads(CliRunner().invoke(app, ["mixers", "--json"], catch_exceptions=False).stdout)
    assert [entry["name"] for entry in found] == list(MIXERS)


def test_the_stored_set_is_of_all_mixers() -> None:
    stored = reference()
    assert stored["version"] >= 1
    assert stored["mixers"] == list(MIXERS)
    assert all(spread["sigma"] > 0 for scores in stored["suites"].values() for spread in scores.values())
