"""A run, its settings, its feature contract and a bag are data: no name in them runs code or fetches anything, whatever
command opens them. The user's own file runs where the user names it and it is what the run was trained with."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

import comel
from comel.bags.bag import write_bag
from comel.errors import ComelError, ConfigError, RunError
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from service.predictions.work import Work, Workbench
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings
from tests.comel.toys import DIMENSION, ENCODER_FILE, FINETUNE, TASKS, Stream, make_bag, tree, write_manifest, write_stream

Cli = Callable[..., tuple[int, str, str]]
Change = Callable[[Path, Path], None]


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def sign(run: Path) -> None:
    """The checksums of every version as somebody would write them who has changed its files."""
    for folder in (run / "versions").iterdir():
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "checksums.json"]
        sums = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        (folder / "checksums.json").write_text(json.dumps(sums))


def in_models(change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(run: Path, bomb: Path) -> None:
        for path in run.glob("versions/*/model.json"):
            change_json(path, change)

    return apply


def name_of_model(run: Path, bomb: Path) -> None:
    in_models(lambda content: content["model"].update(name=f"{bomb}:Bomb"))(run, bomb)


def name_of_model_with_hash(run: Path, bomb: Path) -> None:
    sha256 = hashlib.sha256(bomb.read_bytes()).hexdigest()
    in_models(lambda content: content["model"].update(name=f"{bomb}:Bomb", code_sha256=sha256))(run, bomb)


def name_of_strategy(run: Path, bomb: Path) -> None:
    in_models(lambda content: content["strategy"].update(name=f"{bomb}:Bomb"))(run, bomb)


def in_settings(section: str) -> Change:
    def apply(run: Path, bomb: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        content[section] = {"name": f"{bomb}:Bomb", "code_sha256": hashlib.sha256(bomb.read_bytes()).hexdigest()}
        (run / "config.yaml").write_text(yaml.safe_dump(content))

    return apply


def yaml_tag(run: Path, bomb: Path) -> None:
    with open(run / "config.yaml", "a") as stream:
        stream.write(f"\nother: !!python/object/apply:runpy.run_path ['{bomb}']\n")


def encoder(name: str) -> Change:
    def apply(run: Path, bomb: Path) -> None:
        stated = name.format(bomb=bomb, folder=bomb.parent)
        in_models(lambda content: content["contract"].update(encoder=stated, weights_hash=None))(run, bomb)

    return apply


def stain_reference(run: Path, bomb: Path) -> None:
    reading = {"stain_normalisation": "macenko", "stain_reference": str(bomb)}
    in_models(lambda content: content["contract"].update(reading=reading))(run, bomb)


def setting_of_extraction(run: Path, bomb: Path) -> None:
    in_models(lambda content: content["contract"].update(reading={"encoder": f"{bomb}:Bomb"}))(run, bomb)


class Pickled:
    def __init__(self, bomb: Path) -> None:
        self.bomb = bomb

    def __reduce__(self) -> Any:
        import runpy

        return runpy.run_path, (str(self.bomb),)


def pickled_weights(run: Path, bomb: Path) -> None:
    for path in run.glob("versions/*/model.safetensors"):
        path.write_bytes(pickle.dumps(Pickled(bomb)))


def pickled_beside(run: Path, bomb: Path) -> None:
    for path in run.glob("versions/*/adapters/*"):
        (path / "adapter_model.safetensors").unlink()
        (path / "adapter_model.bin").write_bytes(pickle.dumps(Pickled(bomb)))


def settings_of_peft(run: Path, bomb: Path) -> None:
    """Nothing reads PEFT's own files, where ``auto_mapping`` names a module to import."""
    mapping = {"base_model_class": "Bomb", "parent_library": bomb.stem}
    for path in run.glob("versions/*/adapters/*/adapter_config.json"):
        change_json(path, lambda content: content.update(auto_mapping=mapping, base_model_name_or_path="owner/model"))


def adapter_elsewhere(run: Path, bomb: Path) -> None:
    for path in run.glob("versions/*/strategy.json"):
        change_json(path, lambda content: content.update(adapters=[f"../../../{bomb.parent.name}"]))


def checkpoint(run: Path, bomb: Path) -> None:
    """What a killed add-task leaves."""
    folder = run / "checkpoint"
    shutil.copytree(run / "versions" / "002", folder)
    (folder / "progress.json").write_text(json.dumps({"plan": f"{bomb}:Bomb", "stage": 1, "epoch": 1}))
    (folder / "optimizer.safetensors").write_bytes(pickle.dumps(Pickled(bomb)))
    (run / "early-stopping-001-00001.safetensors").write_bytes(pickle.dumps(Pickled(bomb)))


WAYS: dict[str, Change] = {
    "model.json: model.name": name_of_model,
    "model.json: model.name with the file's hash": name_of_model_with_hash,
    "model.json: strategy.name": name_of_strategy,
    "config.yaml: model.name": in_settings("model"),
    "config.yaml: strategy.name": in_settings("strategy"),
    "config.yaml: a tag": yaml_tag,
    "contract: encoder in a file": encoder("{bomb}:Bomb"),
    "contract: encoder of a hub": encoder("hf:owner/model"),
    "contract: encoder in a folder": encoder("hf:{folder}"),
    "contract: weights in a folder": encoder("uni:{folder}"),
    "contract: stain reference": stain_reference,
    "contract: a setting of extraction": setting_of_extraction,
    "model.safetensors: a pickle": pickled_weights,
    "adapters: a pickle": pickled_beside,
    "adapters: PEFT's settings": settings_of_peft,
    "strategy.json: a path": adapter_elsewhere,
    "checkpoint: a pickle": checkpoint,
}
"""Every way by which what stands in a run reaches a loader; see ``tests/test_loaders.py``."""


@pytest.fixture
def tripped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What went off: the file that ``bomb`` writes when it is run, and every connection that was tried."""
    tried: list[str] = []

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(f"connection to {address}")
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: connect(None, address))  # type: ignore[arg-type]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.syspath_prepend(str(tmp_path / "bombs"))
    yield tried
    assert tried == []
    assert not (tmp_path / "went-off").exists()


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    path = tmp_path / "bombs" / "bomb.py"
    path.parent.mkdir()
    path.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'went-off')!r}).touch()\nclass Bomb:\n    Options = None\n")
    return path


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(60, 200, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "slide.png")
    return tmp_path / "slide.png"


def served(run: Path, state: Path, path: Path, kind: Any) -> None:
    """What a service's worker does with a bag or a slide."""
    settings = ServiceSettings(runs={"model": run}, state_dir=state, device="cpu")
    bench = Workbench(settings, ModelRegistry(settings).get)
    bench.perform(Work("0" * 32, kind, path, path.stem, "model", None, mpp=0.5 if kind == "slide" else None))


@pytest.mark.parametrize("way", WAYS)
def test_nothing_in_a_run_goes_off(
    way: str, toy_run: Path, toy_stream: Stream, bomb: Path, slide: Path, tripped: list[str], comel_cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    WAYS[way](run, bomb)
    sign(run)
    data = ("--manifest", toy_stream.manifest, "--bags", toy_stream.bags)
    bag = toy_stream.bag("colon-07")
    commands: dict[str, tuple[object, ...]] = {
        "predict a bag": ("predict", run, bag, "--out", tmp_path / "of-bag", "--device", "cpu"),
        "predict a slide": ("predict", run, slide, "--mpp", 0.5, "--out", tmp_path / "of-slide", "--device", "cpu"),
        "evaluate": ("evaluate", run, *data, "--task", "colon", "--device", "cpu", "--json"),
        "report": ("report", run, "--out", tmp_path / "report.html"),
        "add-task": ("add-task", run, *data, "--task", "liver", "--set", "trainer.epochs=1", "--quiet"),
        "resume": ("train", "--resume", "--out", run, "--quiet"),
    }
    refused = set()
    for name, words in commands.items():
        if name == "resume":
            change_json(run / "metrics.json", lambda content: content.update(finished=False))
        code, _, said = comel_cli(*words)
        assert code in (0, 2), (name, said)
        assert "Traceback" not in said
        if code == 2:
            refused.add(name)
            assert said.splitlines()[-1].startswith("comel: "), (name, said)
    for kind, path in (("bag", bag), ("slide", slide)):
        try:
            served(run, tmp_path / f"state-{kind}", path, kind)
        except ComelError:
            refused.add(f"serve a {kind}")
    assert refused, "a run that cannot be used whole is used whole"


def test_nothing_in_a_bag_goes_off(toy_run: Path, bomb: Path, tripped: list[str], comel_cli: Cli, tmp_path: Path) -> None:
    """A bag names an encoder too; it is compared, and nothing else."""
    folder = tmp_path / "bags"
    for name in (f"{bomb}:Bomb", "hf:owner/model", f"uni:{bomb.parent}"):
        write_bag(folder / "a.h5", make_bag("a", np.ones((4, DIMENSION))))
        with h5py.File(folder / "a.h5", "r+") as file:
            file.attrs["encoder"] = name
        code, _, said = comel_cli("predict", toy_run, folder / "a.h5", "--out", tmp_path / "out", "--device", "cpu")
        assert code == 2
        assert f"encoder {name} instead of toy" in said
    (folder / "a.pt").write_bytes(pickle.dumps(Pickled(bomb)))
    code, _, said = comel_cli("predict", toy_run, folder / "a.pt", "--out", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert "holds more than tensors" in said


OWN_MODEL = """
from comel.models.mean import MeanPooling

class Mine(MeanPooling):
    pass
"""
OWN_STRATEGY = """
from comel.strategies.base import Strategy

class Mine(Strategy):
    pass
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stream]:
    """A folder with a run of a model and a strategy of the user's own, beside their files."""
    folder = tmp_path_factory.mktemp("own")
    stream = write_stream(folder, TASKS[:1])
    (folder / "model.py").write_text(OWN_MODEL)
    (folder / "strategy.py").write_text(OWN_STRATEGY)
    settings = stream.settings({"name": f"{folder}/strategy.py:Mine"}, epochs=1)
    comel.train({**settings, "model": {"name": f"{folder}/model.py:Mine", "dim": 8}}, folder / "run", quiet=True)
    return folder, stream


@pytest.fixture
def moved(own: tuple[Path, Stream], tmp_path: Path) -> tuple[Path, Stream]:
    """A copy of it on another machine, so to speak."""
    for name in ("run", "model.py", "strategy.py"):
        (shutil.copytree if (own[0] / name).is_dir() else shutil.copy)(own[0] / name, tmp_path / name)
    return tmp_path, own[1]


def test_a_run_keeps_the_hash_of_its_code(own: tuple[Path, Stream]) -> None:
    folder, _ = own
    model, strategy = (hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in ("model", "strategy"))
    info = RunDirectory(folder / "run").info()
    assert (info.model["code_sha256"], info.strategy["code_sha256"]) == (model, strategy)
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert (config["model"]["code_sha256"], config["strategy"]["code_sha256"]) == (model, strategy)


def test_every_command_runs_the_users_code_on_the_users_word(moved: tuple[Path, Stream], comel_cli: Cli) -> None:
    folder, stream = moved
    run, data = folder / "run", ("--manifest", stream.manifest, "--bags", stream.bags)
    more = write_stream(folder / "more", ["kidney"])
    words = ("--trust", folder / "model.py")
    both = (*words, "--trust", folder / "strategy.py")
    for command, trust in (
        (("predict", run, stream.bag("colon-07"), "--out", folder / "out"), words),
        (("evaluate", run, *data), words),
        (("train", "--resume", "--out", run, "--quiet"), both),
        (("add-task", run, "--manifest", more.manifest, "--bags", more.bags, "--quiet"), both),
    ):
        if command[0] == "train":
            change_json(run / "metrics.json", lambda content: content.update(finished=False))
        code, _, said = comel_cli(*command)
        assert (code, said.count("\n")) == (2, 1), command
        assert (
            "is code in a file, and a run does not carry code; if you know that file and trust it, name your copy of it: "
            in said
        )
        code, _, said = comel_cli(*command, *trust)
        assert code == 0, said
        assert "without knowing" not in said
    code, _, said = comel_cli("report", run, "--out", folder / "a.html")
    assert code == 0
    assert "a run does not carry code" in (folder / "a.html").read_text()
    assert comel_cli("report", run, "--out", folder / "b.html", *words)[0] == 0
    assert "a run does not carry code" not in (folder / "b.html").read_text()


def test_code_that_has_changed_is_refused(moved: tuple[Path, Stream], comel_cli: Cli) -> None:
    folder, stream = moved
    (folder / "model.py").write_text(OWN_MODEL + "# a line more\n")
    before = tree(folder / "run")
    code, _, said = comel_cli(
        "predict", folder / "run", stream.bag("colon-07"), "--out", folder / "out", "--trust", folder / "model.py"
    )
    assert (code, said.count("\n")) == (2, 1)
    assert "model.py: not the code that the run was trained with (SHA-256 " in said
    assert not (folder / "out").exists()
    assert tree(folder / "run") == before


def test_a_run_without_the_hash_runs_with_a_note(moved: tuple[Path, Stream], comel_cli: Cli) -> None:
    """As version 0.1.0 wrote it."""
    folder, stream = moved
    in_models(lambda content: content["model"].pop("code_sha256"))(folder / "run", folder)
    sign(folder / "run")
    words = ("predict", folder / "run", stream.bag("colon-07"), "--out", folder / "out", "--trust", folder / "model.py")
    code, _, said = comel_cli(*words)
    assert code == 0
    assert "model.py: run without knowing whether it is the code that the run was trained with" in said
    assert "without knowing" not in comel_cli(*words, "--quiet")[2]


@pytest.mark.parametrize("name", ["model", "strategy"])
def test_the_same_command_goes_on_with_code_that_was_mended(
    name: str, moved: tuple[Path, Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    """The user names the file again. It is said, and the run keeps the new hash; --resume alone is not the user's word."""
    folder, stream = moved
    settings = stream.settings({"name": f"{folder}/strategy.py:Mine"}, epochs=1)
    settings["model"] = {"name": f"{folder}/model.py:Mine", "dim": 8}
    run = comel.train(settings, folder / "other", quiet=True)
    change_json(run / "metrics.json", lambda content: content.update(finished=False))
    file = folder / f"{name}.py"
    file.write_text(file.read_text() + "# a line more\n")
    capsys.readouterr()
    with pytest.raises(ConfigError, match=rf"{name}\.py: not the code that the run was trained with"):
        comel.train({}, run, resume=True, trust=[folder / "model.py", folder / "strategy.py"])
    comel.train(settings, run)
    assert f"training: {file}: has changed since the run began; earlier stages were learned with" in capsys.readouterr().err
    stored = yaml.safe_load((run / "config.yaml").read_text())[name]
    assert stored["code_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    change_json(run / "metrics.json", lambda content: content.update(finished=False))
    comel.train(settings, run)
    assert "has changed" not in capsys.readouterr().err


def test_what_a_trusted_file_holds_must_be_a_model(moved: tuple[Path, Stream]) -> None:
    folder, _ = moved
    (folder / "model.py").write_text("import os\nclass Mine: pass\n")
    sha256 = hashlib.sha256((folder / "model.py").read_bytes()).hexdigest()
    for attribute in ("Mine", "os"):
        name = f"{folder}/model.py:{attribute}"
        in_models(lambda content, name=name: content["model"].update(name=name, code_sha256=sha256))(folder / "run", folder)  # type: ignore[misc]
        sign(folder / "run")
        with pytest.raises(ComelError, match="is not a model"):
            Predictor.open(folder / "run", trust=[folder / "model.py"])


def test_the_service_trusts_what_its_settings_name(moved: tuple[Path, Stream]) -> None:
    folder, stream = moved
    about: dict[str, Any] = {"runs": {"model": folder / "run"}, "state_dir": folder / "state", "device": "cpu"}
    with pytest.raises(RunError, match=r"does not carry code; .* model\.py in the service's setting trusted_code") as refused:
        ModelRegistry(ServiceSettings(**about)).open()
    assert "--trust" not in str(refused.value)
    settings = ServiceSettings(**about, trusted_code=(str(folder / "model.py"),))
    registry = ModelRegistry(settings)
    registry.open()
    work = Work("0" * 32, "bag", stream.bag("colon-07"), "colon-07", "model", None)
    assert Workbench(settings, registry.get).perform(work).slide_id == "colon-07"


def test_an_encoder_of_the_users_own_reads_slides_on_the_users_word(
    slide: Path, toy_stream: Stream, comel_cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "toy.py").write_text(ENCODER_FILE)
    cohort = [{"slide_id": "slide", "path": "slide.png", "label": "normal", "task": "colon", "mpp": "0.5"}]
    manifest = write_manifest(tmp_path / "cohort.csv", cohort)
    code, _, said = comel_cli("extract", manifest, "--out", tmp_path / "bags", "--encoder", f"{tmp_path}/toy.py:Toy", "--quiet")
    assert code == 0, said
    sha256 = hashlib.sha256(ENCODER_FILE.encode()).hexdigest()
    with h5py.File(tmp_path / "bags" / "slide.h5") as file:
        assert file.attrs["encoder_code_sha256"] == sha256
    run = comel.train(toy_stream.settings(FINETUNE, tasks=["colon"], epochs=1), tmp_path / "run", quiet=True)
    in_models(lambda content: content["contract"].update(code_sha256=sha256))(run, tmp_path)
    sign(run)
    predict = ("predict", run, slide, "--mpp", 0.5, "--out", tmp_path / "out", "--device", "cpu")
    code, _, said = comel_cli(*predict)
    assert (code, said.count("\n")) == (2, 1)
    assert "no installed encoder 'toy'" in said
    assert "--encoder FILE.py:Class" in said
    for word in ("--encoder", "--trust"):
        assert comel_cli(*predict, word, f"{tmp_path}/toy.py:Toy")[0] == 0
    settings = ServiceSettings(
        runs={"model": run}, state_dir=tmp_path / "state", device="cpu", trusted_code=(f"{tmp_path}/toy.py:Toy",)
    )
    work = Work("0" * 32, "slide", slide, "slide", "model", None, mpp=0.5)
    untrusting = settings.model_copy(update={"trusted_code": ()})
    with pytest.raises(ComelError, match=r"say FILE\.py:Class in the service's setting trusted_code") as refused:
        Workbench(untrusting, ModelRegistry(untrusting).get).perform(work)
    assert "--encoder" not in str(refused.value)
    assert Workbench(settings, ModelRegistry(settings).get).perform(work).slide_id == "slide"
    (tmp_path / "toy.py").write_text(ENCODER_FILE + "# a line more\n")
    shutil.rmtree(tmp_path / "out")
    for word in ("--encoder", "--trust"):
        code, _, said = comel_cli(*predict, word, f"{tmp_path}/toy.py:Toy")
        assert code == 2
        assert "toy: not the code that the model's slides were extracted with (SHA-256 " in said


def test_a_model_of_a_hub_is_fetched_on_the_users_word_alone(
    toy_run: Path, slide: Path, comel_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def fetch(name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("no network in this test")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    encoder("hf:owner/model")(run, tmp_path)
    sign(run)
    predict = ("predict", run, slide, "--mpp", 0.5, "--out", tmp_path / "out", "--device", "cpu")
    code, _, said = comel_cli(*predict)
    assert code == 2
    assert "no installed encoder 'hf:owner/model'; if you know that model and trust it, give --encoder hf:" in said
    assert asked == []
    for word in (("--trust", "hf:owner/model"), ("--encoder", "hf:owner/model")):
        assert "cannot be fetched" in comel_cli(*predict, *word)[2]
    assert asked == ["owner/model"] * 2
