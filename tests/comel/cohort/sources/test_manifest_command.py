"""The command as a whole: its help, what it prints, what it loads, and bags made from what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from comel.app.commands.manifest import app
from comel.bags.bag import read_bag
from pipelines.extraction.settings import ExtractSettings
from pipelines.patch_encoders.base import PatchEncoder
from tests.comel.cohort.sources.trees import manifest_command, touch, write
from tests.pipelines.in_process import extract_cohort

COHORTS = ("camelyon16", "paip", "tcga", "folder")


@pytest.mark.parametrize("cohort", COHORTS)
def test_help_ends_with_an_example(cohort: str) -> None:
    done = CliRunner().invoke(app, [cohort, "--help"])
    assert done.exit_code == 0
    assert f"Example: comel manifest {cohort} /data/" in " ".join(done.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; import comel.app.commands.manifest; "
        "from comel.cohort.sources import camelyon16, folder, paip, tcga; "
        "print([name for name in ('torch', 'pandas', 'sklearn', 'h5py', 'pipelines', 'service') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_counts_and_where_paths_start(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    touch(root, "t/normal/a.svs", "t/normal/b.svs", "t/tumour/c.svs")
    done = CliRunner().invoke(app, ["folder", str(root), "--out", str(tmp_path / "lists" / "m.csv")])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "t normal: 2 slides",
        "t tumour: 1 slides",
        f"manifest: {tmp_path}/lists/m.csv, 3 slides",
        f"its paths start from {root}: add --root {root} to comel extract",
    ]
    beside = CliRunner().invoke(app, ["folder", str(root)])
    assert "--root" not in beside.stdout


class Grey(PatchEncoder):
    """The mean of a tile's colours."""

    name, weights_hash, recipe, dimension, input_size, device = "grey", "0" * 64, "mean", 3, 0, "cpu"

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        features: np.ndarray = tiles.mean(axis=(1, 2)).astype(np.float32)
        return features


def draw(path: Path) -> None:
    """A slide of 1024 x 768 px at 0.5 micrometres a pixel, tissue from edge to edge but for a margin."""
    pixels = np.full((768, 1024, 3), 243, np.uint8)
    pixels[128:640, 128:896] = (170, 80, 160)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )


def asap(corners: list[tuple[int, int]]) -> str:
    points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
    annotation = f'<Annotation Type="Polygon" PartOfGroup="_0"><Coordinates>{points}</Coordinates></Annotation>'
    return f"<ASAP_Annotations><Annotations>{annotation}</Annotations></ASAP_Annotations>"


def imagescope(corners: list[tuple[int, int]]) -> str:
    points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
    region = f'<Region Type="0" NegativeROA="0"><Vertices>{points}</Vertices></Region>'
    return f"<Annotations><Annotation><Regions>{region}</Regions></Annotation></Annotations>"


@pytest.mark.parametrize("cohort", ["camelyon16", "paip"])
def test_bags_of_a_miniature_cohort_have_its_labels(tmp_path: Path, cohort: str) -> None:
    """Manifest to bags: the tiles that begin left of x = 512 are those that the outline covers."""
    root, corners = tmp_path / "data", [(0, 0), (512, 0), (512, 768), (0, 768)]
    if cohort == "camelyon16":
        tumour, normal = "training/tumor/tumor_001.tif", "training/normal/normal_001.tif"
        write(root / "training/lesion_annotations/tumor_001.xml", asap(corners))
    else:
        tumour, normal = "liver/slides/01_01_0001.svs", "liver/normal/01_01_0002.svs"
        write(root / "liver/annotations/01_01_0001.xml", imagescope(corners))
    draw(root / tumour)
    draw(root / normal)
    manifest_command(cohort, root, "--out", tmp_path / "m.csv", *(["--val-fraction", "0"] if cohort == "camelyon16" else []))
    settings = ExtractSettings(tile_size=128, batch_size=8)
    report = extract_cohort(tmp_path / "m.csv", tmp_path / "bags", settings, encoder=Grey())
    assert (report.done, report.failed) == (2, 0)
    bag = read_bag(tmp_path / "bags" / f"{Path(tumour).stem}.h5")
    assert bag.coords is not None
    assert bag.labels is not None
    assert bag.labels.tolist() == [int(x < 512) for x, _ in bag.coords]
    assert set(bag.labels.tolist()) == {0, 1}
    assert read_bag(tmp_path / "bags" / f"{Path(normal).stem}.h5").labels is None
