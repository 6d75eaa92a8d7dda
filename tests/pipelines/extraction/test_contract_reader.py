"""What decides a slide's features beside the model's contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from comel.bags.contract import FeatureContract
from pipelines.extraction.contract import ContractReader

CONTRACT = FeatureContract("mean-colour", "0" * 64, 12, 0.5, 256)


def test_equal_sources_mean_equal_features(slide_path: Path, tmp_path: Path) -> None:
    first = ContractReader(CONTRACT).source(slide_path, slide_id="slide")
    assert first is not None
    assert ContractReader(CONTRACT, device="cpu").source(slide_path, slide_id="slide") == first
    others = [
        ContractReader(CONTRACT).source(slide_path, slide_id="slide", mpp=0.5),
        ContractReader(CONTRACT, assume_mpp=0.5).source(slide_path, slide_id="slide"),
        ContractReader(CONTRACT, encoder="uni:folder").source(slide_path, slide_id="slide"),
    ]
    for number in range(2):
        (tmp_path / "drawn").mkdir(exist_ok=True)
        (tmp_path / "drawn" / "slide.geojson").write_text(str(number))
        others.append(ContractReader(CONTRACT, tissue_folder=tmp_path / "drawn").source(slide_path, slide_id="slide"))
    for number, other in enumerate(others):
        assert other != first
        assert other not in others[:number]
    slide_path.write_bytes(slide_path.read_bytes() + b"0")
    assert ContractReader(CONTRACT).source(slide_path, slide_id="slide") != first


def test_nothing_is_sure_where_the_encoders_weights_are_not_known(slide_path: Path) -> None:
    assert ContractReader(replace(CONTRACT, weights_hash=None)).source(slide_path, slide_id="slide") is None


def test_a_slide_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ContractReader(CONTRACT).source(tmp_path / "none.tif", slide_id="none")
