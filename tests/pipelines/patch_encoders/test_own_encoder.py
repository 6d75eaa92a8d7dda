from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comel.bags.contract import FeatureContract
from comel.errors import ConfigError, FeatureMismatch
from pipelines.extraction.contract import ContractReader
from pipelines.patch_encoders import load_encoder, scale_note
from tests.places import ROOT

DOCS = ROOT / "docs" / "encoders.md"
TILES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
GOOD = """
import numpy as np

class Mine:
    name = "mine"
    dimension = 3
    weights_hash = "ab" * 32

    def __init__(self, device):
        self.device = device

    def encode(self, tiles):
        return tiles.mean(axis=(1, 2)).astype(np.float32)
"""


def write(folder: Path, text: str = GOOD, name: str = "Mine") -> str:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return f"{folder / 'mine.py'}:{name}"


def test_the_contract_is_all_it_takes(tmp_path: Path) -> None:
    encoder = load_encoder(write(tmp_path), "cpu")
    assert (encoder.name, encoder.dimension, encoder.weights_hash, encoder.device) == ("mine", 3, "ab" * 32, "cpu")
    assert (encoder.mpp, encoder.input_size, encoder.recipe) == ((), 0, "")
    assert np.allclose(encoder.encode(TILES), TILES.reshape(3, -1, 3).mean(axis=1), atol=1e-3)


@pytest.mark.parametrize(("line", "mpp"), [("mpp = 0.25", (0.25,)), ("mpp = (0.5, 1)", (0.5, 1.0))])
def test_what_it_says_of_itself_is_kept(tmp_path: Path, line: str, mpp: tuple[float, ...]) -> None:
    more = f'    dimension = 3\n    {line}\n    recipe = "mean"\n    input_size = 96\n'
    encoder = load_encoder(write(tmp_path, GOOD.replace("    dimension = 3\n", more)), "cpu")
    assert (encoder.mpp, encoder.recipe, encoder.input_size) == (mpp, "mean", 96)
    assert scale_note(encoder, 4.0) is not None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mine"', "", "has no 'name'; give it a text"),
        ('name = "mine"', 'name = ""', "'name' is ''"),
        ('name = "mine"', 'name = "uni"', "the name 'uni' belongs to another encoder"),
        ('name = "mine"', 'name = "hf:x"', "the name 'hf:x' belongs to another encoder"),
        ("dimension = 3", 'dimension = "3"', "'dimension' is '3'; give it a whole number"),
        ("dimension = 3", "dimension = True", "'dimension' is True"),
        ("dimension = 3", "dimension = 4", r"mine \(.*mine.py:Mine\): gave features of shape \(2, 3\), not \(2, 4\)"),
        ("dimension = 3", "dimension = 3; mpp = None", "'mpp' is None; give it um/px above 0, one .*, or leave it out"),
        ("dimension = 3", "dimension = 3; mpp = '20x'", "'mpp' is '20x'; give it um/px"),
        ("dimension = 3", "dimension = 3; mpp = (0.5, 0)", r"'mpp' is \(0.5, 0\); give it um/px"),
        ("dimension = 3", "dimension = 3; mpp = float('inf')", "'mpp' is inf; give it um/px"),
        ("dimension = 3", "dimension = 3; input_size = (224, 224)", r"'input_size' is \(224, 224\); give it a whole number"),
        ("dimension = 3", "dimension = 3; input_size = 224.0", "'input_size' is 224.0"),
        ('"ab" * 32', '"v1"', "'weights_hash' is 'v1'; give it a SHA-256 in hex"),
        ("def encode", "def code", "has no 'encode'"),
        ("np.float32", "np.float64", r"mine .*: gave features of type float64, not float32; return features.astype"),
        ("axis=(1, 2)", "axis=(1, 2, 3)", r"gave features of shape \(2,\), not \(2, 3\)"),
        (".astype(np.float32)", ".tolist()", "gave a list; return a numpy array"),
        ("tiles.mean(axis=(1, 2))", "(tiles.mean(axis=(1, 2)) * np.nan)", "gave features that are not finite"),
        ("return tiles", "return 1 // 0 * tiles", r"mine .*: encode fails \(ZeroDivisionError: "),
        ("self.device = device", "raise OSError('no weights')", r"cannot be made \(OSError: no weights\)"),
        ("self.device = device", "raise SystemExit('no licence')", r"cannot be made \(SystemExit: no licence\)"),
        ("return tiles", "raise SystemExit('no licence'); tiles", r"mine .*: encode fails \(SystemExit: no licence\)"),
        ("(self, device)", "(self)", r"cannot be made \(TypeError: .*; the class is called with one argument"),
    ],
)
def test_a_broken_contract_is_one_line_that_names_the_encoder(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load_encoder(write(tmp_path, GOOD.replace(old, new)), "cpu")
    assert "\n" not in str(caught.value)
    assert "mine" in str(caught.value)


def test_the_contract_holds_for_every_batch_not_only_the_first(tmp_path: Path) -> None:
    text = GOOD.replace("return tiles", "return tiles[:2]")
    encoder = load_encoder(write(tmp_path, text), "cpu")
    with pytest.raises(ConfigError, match=r"shape \(2, 3\), not \(3, 3\)"):
        encoder.encode(TILES)


def test_files_and_classes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.py: no such file"):
        load_encoder(f"{tmp_path}/missing.py:Mine", "cpu")
    with pytest.raises(ConfigError, match="defines no 'Yours'"):
        load_encoder(write(tmp_path, name="Yours"), "cpu")


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(# my_encoder\.py\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    (tmp_path / "my_encoder.py").write_text(example[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("my_encoder.py:MyEncoder", "cpu")
    features = encoder.encode(TILES)
    assert features.shape == (3, encoder.dimension)
    assert np.array_equal(features, encoder.encode(TILES))
    assert load_encoder("my_encoder.py:MyEncoder", "cpu").weights_hash == encoder.weights_hash


def test_a_model_trained_with_it_reads_slides_with_the_file_named_again(tmp_path: Path) -> None:
    encoder = load_encoder(write(tmp_path), "cpu")
    contract = FeatureContract(encoder.name, encoder.weights_hash, encoder.dimension, 0.5, 256)
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "slide.png")
    reader = ContractReader(contract, assume_mpp=0.5, device="cpu", encoder=write(tmp_path))
    assert reader.extract(tmp_path / "slide.png", slide_id="slide").bag.contract.encoder == encoder.name
    with pytest.raises(FeatureMismatch, match="efficientnet-lite0: is the encoder efficientnet-lite0, not"):
        ContractReader(contract, assume_mpp=0.5, encoder="efficientnet-lite0").extract(tmp_path / "slide.png", slide_id="slide")
    with pytest.raises(ConfigError, match="encoders: no installed encoder 'mine'"):
        ContractReader(contract, assume_mpp=0.5).extract(tmp_path / "slide.png", slide_id="slide")
