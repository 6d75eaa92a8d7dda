"""Options from schemas: whatever way a setting is given, it is the same, and it is described."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import yaml
from hypothesis import given as generated
from hypothesis import settings, strategies
from pydantic import BaseModel, Field
from typer.testing import CliRunner

import comel
from comel.app.cli import app
from comel.app.fields import choices_of, default_of, field_at, range_of
from comel.app.options import Flag, Given, LazyCommand, options_of
from comel.app.schemas import EvaluateOptions, ExtractOptions, PredictOptions
from comel.base.kinds import kinds_of, kinds_of_elements
from comel.base.settings import Section, parse_section
from comel.errors import ComelError, ConfigError
from comel.runs.config import RunConfig
from pipelines.extraction.settings import ExtractSettings
from pipelines.synth.settings import SynthSettings
from service.settings import ServiceSettings

SCHEMAS: list[type[BaseModel]] = [
    ExtractOptions,
    PredictOptions,
    EvaluateOptions,
    SynthSettings,
    RunConfig,
    ServiceSettings,
]
NEEDED: dict[type[BaseModel], dict[str, Any]] = {EvaluateOptions: {"manifest": "m.csv", "bags": "b"}}
OF_A_KIND: dict[Any, list[Any]] = {
    str: ["auto", "007", "no", "null", "a b", "ä=1", "x.y:Z", "-1"],
    int: [1, 0, 7, 64, 512],
    float: [0.0, 0.5, 1.0, 2.0, 1e-05],
    Path: [Path("a/b"), Path("2024-01-01"), Path("/no/such"), Path("null")],
}
OF_A_FIELD: dict[str, list[Any]] = {
    "also_mpp": [(1.0,), (1.0, 2.0)],
    "tissue_folder": [Path(__file__).parent],
    "organs": ["kidney,liver", ("colon",)],
    "ink": ["red,blue", "none", ("green",)],
    "engine": ["dask", "local"],
    "split": ["all", "train"],
    "runs": [["a=b", "c"], ["x"]],
    "webhook_secret": ["007"],
    "root_path": ["/comel"],
}
SKIPPED = {"stain_reference", "settings_file", "tumour_fraction", "oidc_scopes", "database_url"}


def made_commands() -> Iterator[tuple[str, Any]]:
    """Every command with options from a schema, by name."""

    def walk(group: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{path}{name} ")
            elif isinstance(command, LazyCommand):
                yield f"{path}{name}", command.made()

    return walk(typer.main.get_command(app), "")


def run(schema: type[BaseModel], *words: object, **how: Any) -> BaseModel:
    """The settings that a command with options of ``schema`` is given by these words."""
    seen: list[Given[Any]] = []
    how = {"config": None, "names": {"settings_file": "--config"}} | how if schema is ServiceSettings else how

    def command(given: Given[Any]) -> None:
        seen.append(given)

    command = options_of(f"{schema.__module__}:{schema.__name__}", example="a=b", command="test", **how)(command)
    typer_app = typer.Typer(rich_markup_mode=None)
    typer_app.command(cls=LazyCommand)(command)
    result = CliRunner().invoke(typer_app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    settings: BaseModel = seen[0].settings()
    return settings


def mistake(schema: type[BaseModel], *words: object, **how: Any) -> str:
    with pytest.raises(ComelError) as caught:
        run(schema, *words, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leaves(schema: type[BaseModel], before: str = "") -> Iterator[str]:
    """The keys of a schema, those of its sections too."""
    for name, field in schema.model_fields.items():
        kind = kinds_of(field.annotation)[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name not in SKIPPED:
            yield from leaves(kind, f"{before}{name}.")
        else:
            yield before + name


def values_of(key: str, schema: type[BaseModel]) -> list[Any]:
    """Some values that a field takes."""
    name, field = key.rpartition(".")[2], field_at(schema, key)
    assert field is not None
    if name in OF_A_FIELD:
        return OF_A_FIELD[name]
    kind = next(kind for kind in kinds_of(field.rebuild_annotation()) if kind is not type(None))
    if choices_of(field):
        found: list[Any] = choices_of(field)
    elif kind is bool:
        return [not field.default]
    elif kinds_of_elements(kind):
        found = [(one,) for one in OF_A_KIND[kinds_of(kinds_of_elements(kind)[0])[0]]]
    elif kind in OF_A_KIND:
        found = OF_A_KIND[kind]
    else:
        return []
    return [value for value in found if fits(schema, key, value)]


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    found: dict[str, Any] = value
    return found


def fits(schema: type[BaseModel], key: str, value: Any) -> bool:
    try:
        parse_section(schema, NEEDED.get(schema, {}) | nested(key, value), "test")
    except ConfigError:
        return False
    return True


def words_of(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag]
    return [f"{flag}={one}" for one in (value if isinstance(value, (list, tuple)) else [value])]


def plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


FIELDS = [
    (schema, key)
    for schema in SCHEMAS
    for key in leaves(schema)
    if key.rpartition(".")[2] not in SKIPPED and key not in ("model", "strategy", "data.labels")
]


@pytest.mark.parametrize(("schema", "key"), FIELDS, ids=[f"{schema.__name__}-{key}" for schema, key in FIELDS])
def test_a_setting_is_the_same_by_option_set_file_and_python(schema: type[BaseModel], key: str, tmp_path: Path) -> None:
    values = values_of(key, schema)
    assert values, "give examples of its kind"
    field = field_at(schema, key)
    assert field is not None
    needed = NEEDED.get(schema, {})
    others = [name for name in needed if name != key]
    flag = f"--{'no-' * (field.default is True)}{key.rpartition('.')[2].replace('_', '-')}"
    for value in values:
        expected = parse_section(schema, needed | nested(key, value), "test")
        given = [word for name in others for word in (f"--{name}", needed[name])]
        only = {"only": [*others, key, *(["settings_file"] if schema is ServiceSettings else [])]}
        assert run(schema, *given, *words_of(flag, value), **only) == expected
        text = yaml.safe_dump(plain(value), default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("\n...\n")
        assert run(schema, *given, "--set", f"{key}={text}", **only) == expected
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(nested(key, plain(value)), allow_unicode=True), encoding="utf-8")
        of_file = run(schema, *given, "--config", tmp_path / "settings.yaml", **only)
        if schema is ServiceSettings:  # whose paths start from where the service does
            of_file = of_file.model_copy(update={"settings_file": None})
        elif isinstance(value, Path):
            expected = parse_section(schema, needed | nested(key, tmp_path / value), "test")
        assert of_file == expected


@settings(deadline=None, max_examples=50)
@generated(text=strategies.text(strategies.characters(exclude_categories=("Cs", "Cc")), min_size=1))
def test_a_text_arrives_as_it_is(text: str) -> None:
    assert run(PredictOptions, f"--encoder={text}", only=["encoder"]).encoder == text  # type: ignore[attr-defined]
    assert run(RunConfig, f"--negative={text}", only=["data.negative"]).data.negative == text  # type: ignore[attr-defined]


def test_an_option_wins_over_set_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "extract.yaml"
    file.write_text("target_mpp: 0.25\ntile_size: 128\noverlap: 8\nworkers: 3\nregions: [a, b]\nregions_only: true\n")
    words = ("--config", file, "--set", "target_mpp=1.0", "--set", "tile_size=64", "--tile-size", 32, "--regions", "c")
    options = run(ExtractOptions, *words)
    assert isinstance(options, ExtractOptions)
    assert (options.target_mpp, options.tile_size, options.overlap, options.batch_size) == (1.0, 32, 8, 32)
    assert (options.workers, options.regions, options.regions_only) == (3, ("c",), True)
    assert run(ExtractOptions, "--config", file, "--set", "regions_only=no", "--max-pen", 0).max_pen == 0  # type: ignore[attr-defined]


def test_mistakes_say_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "extract.yaml"
    file.write_text("tile_size: 12\n")
    assert mistake(ExtractOptions, "--config", file).startswith(
        f"{file}: tile_size: Input should be greater than or equal to 16"
    )
    assert mistake(ExtractOptions, "--config", file, "--tile-size", 13).startswith("test: tile_size: Input should be greater")
    assert "unknown key 'tile_sise'; did you mean 'tile_size'?" in mistake(ExtractOptions, "--set", "tile_sise=1")
    assert "no '='; write --set a=b" in mistake(ExtractOptions, "--set", "tile_size")
    assert "no such file; check the path of --config" in mistake(ExtractOptions, "--config", tmp_path / "none.yaml")
    assert "test: overlap 300 must be smaller" in mistake(ExtractOptions, "--overlap", 300)
    assert mistake(EvaluateOptions) == "test: no manifest; give --manifest, or write 'manifest: ...' in the file of --config"


def test_paths_in_a_file_start_from_it(tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "extract.yaml").write_text("tissue_folder: drawn\nroot: slides\n")
    options = run(ExtractOptions, "--config", tmp_path / "extract.yaml")
    assert isinstance(options, ExtractOptions)
    assert (options.tissue_folder, options.root) == (tmp_path / "drawn", tmp_path / "slides")
    assert run(ExtractOptions, "--root", "slides").root == Path("slides")  # type: ignore[attr-defined]


def test_a_reference_image_in_a_file_starts_from_it(tmp_path: Path) -> None:
    (tmp_path / "extract.yaml").write_text("stain_normalisation: macenko\nstain_reference: none.png\n")
    assert f"{tmp_path / 'none.png'}" in mistake(ExtractOptions, "--config", tmp_path / "extract.yaml")
    options = run(ExtractOptions, "--stain-normalisation", "reinhard")
    assert isinstance(options, ExtractOptions)
    assert options.stain_reference is not None


def test_what_decides_a_bag_leaves_out_how_the_work_is_done() -> None:
    options = ExtractOptions(target_mpp=1.0, workers=3, device="cpu", force=True)
    assert options.extraction() == ExtractSettings(target_mpp=1.0)
    assert options.extraction().model_dump() == ExtractSettings(target_mpp=1.0).model_dump()


def test_every_field_is_described() -> None:
    for schema in SCHEMAS:
        for key in set(leaves(schema)) - {"model", "strategy"}:
            field = field_at(schema, key)
            assert field is not None
            assert field.description, f"{schema.__name__}.{key}"
            assert not field.description.endswith("."), f"{schema.__name__}.{key}"


def test_every_option_of_a_schema_says_what_it_is_its_default_and_its_range() -> None:
    commands = dict(made_commands())
    assert {"extract", "inspect", "predict", "train", "add-task", "evaluate", "synth", "serve", "worker"} <= set(commands)
    assert "bench extract" in commands
    for name, command in commands.items():
        options = {option: parameter for parameter in command.params for option in parameter.opts}
        assert {"--config", "--set"} <= set(options), name
        assert all(parameter.help for parameter in command.params), name
    helps = {option: parameter.help for parameter in commands["extract"].params for option in parameter.opts}
    for key, field in ExtractOptions.model_fields.items():
        flag = {"positive_classes": "--positive", "wait": "--no-wait"}.get(key, f"--{key.replace('_', '-')}")
        assert flag in helps
        for part in (default_of(field), range_of(field), *choices_of(field)):
            assert part in helps[flag]
    assert "[default: 0.5; 0.05<=x<=20]" in helps["--target-mpp"]
    assert helps["--dtype"].endswith("[one of float16, float32; default: float16]")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"ge": 0, "le": 1}, "0<=x<=1"),
        ({"gt": 0, "lt": 1.5}, "0<x<1.5"),
        ({"ge": -2}, "x>=-2"),
        ({"lt": 3}, "x<3"),
        ({"ge": 0, "le": 2**63 - 1}, "x>=0"),
        ({"multiple_of": 16, "gt": 0}, "x>0, a multiple of 16"),
        ({}, ""),
    ],
)
def test_a_range_in_words(limits: dict[str, Any], said: str) -> None:
    class Limited(Section):
        bare: float = Field(1, **limits)
        maybe: float | None = Field(None, **limits)
        several: tuple[Annotated[float, Field(**limits)], ...] = ()

    assert [range_of(field) for field in Limited.model_fields.values()] == [said] * 3


def test_inspect_and_bench_take_the_file_of_an_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "extract.yaml"
    file.write_text("target_mpp: 1.0\nworkers: 2\nstain: dark\n")
    seen: list[dict[str, Any]] = []

    def record(*arguments: Any, **words: Any) -> Any:
        seen.append(words)
        raise ComelError("seen")

    for name in ("inspect", "bench_extract", "extract"):
        monkeypatch.setattr(f"comel.app.api.{name}", record)
    for words in (["inspect", "s.svs"], ["bench", "extract"], ["extract", "m.csv", "--out", "bags"]):
        with pytest.raises(ComelError, match="seen"):
            CliRunner().invoke(app, [*words, "--config", str(file)], catch_exceptions=False)
    assert [(words["target_mpp"], words["stain"]) for words in seen] == [(1.0, "dark")] * 3
    assert [words.get("workers") for words in seen] == [None, None, 2]


def test_the_service_takes_settings_by_set_in_place_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ServiceSettings] = []
    monkeypatch.setattr("service.app.serve", seen.append)
    file = tmp_path / "service.yaml"
    file.write_text("port: 9000\nkeep_days: 3\nruns: {lung: runs/lung}\nstate_dir: state\noidc_audience: 007\n")
    words = ["serve", "--config", str(file), "--set", "keep_days=7", "--set", "port=1", "--port", "9001", "--slides", "a"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    (chosen,) = seen
    assert (chosen.port, chosen.keep_days, chosen.runs, chosen.oidc_audience) == (9001, 7, {"lung": Path("runs/lung")}, "007")
    assert (chosen.state_dir, chosen.slide_roots) == (Path("state"), (Path("a"),))
    assert CliRunner().invoke(app, ["serve", "--model", "b=x", "--model", "runs/c"], catch_exceptions=False).exit_code == 0
    assert seen[1].runs == {"b": Path("x"), "c": Path("runs/c")}
    with pytest.raises(ConfigError, match="two models are called 'c'; give one another name: --model OTHER=d/c"):
        CliRunner().invoke(app, ["serve", "--model", "runs/c", "--model", "d/c"], catch_exceptions=False)


def test_a_flag_may_be_called_otherwise_and_say_something_else() -> None:
    how: dict[str, Any] = {"only": ["trainer.epochs", "strategy.name"]}
    how["names"] = {"trainer.epochs": "--passes", "strategy.name": Flag("--how", "Say how.")}
    chosen = run(RunConfig, "--passes", 3, "--how", "er", **how)
    assert isinstance(chosen, RunConfig)
    assert (chosen.trainer.epochs, chosen.strategy) == (3, {"name": "er"})


@pytest.mark.parametrize(
    ("function", "schema"),
    [("extract", ExtractOptions), ("predict", PredictOptions), ("synth", SynthSettings), ("inspect", ExtractSettings)],
)
def test_functions_name_their_keywords(function: str, schema: type[BaseModel]) -> None:
    parameters = inspect.signature(getattr(comel, function)).parameters
    for name, field in schema.model_fields.items():
        assert parameters[name].default == field.get_default()
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    misspelt = f"{next(iter(schema.model_fields))}s"
    with pytest.raises(ConfigError, match=f"unknown key '{misspelt}'; did you mean '{misspelt[:-1]}'"):
        getattr(comel, function)(*["x"] * len(needed), **{misspelt: 1})


def test_a_command_without_its_class_says_so() -> None:
    @options_of("comel.runs.config:RunConfig", example="a=b")
    def command(given: Given[Any]) -> None:
        raise AssertionError

    with pytest.raises(NotImplementedError, match="command is registered without cls=LazyCommand"):
        command()


def test_completion_knows_commands_options_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_COMEL_COMPLETE", "complete_bash")
    for words, expected in (
        ("b", {"bags", "bench"}),
        ("extract --ti", {"--time-limit", "--tile-size", "--tissue", "--tissue-folder"}),
    ):
        monkeypatch.setenv("COMP_WORDS", f"comel {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        assert set(CliRunner().invoke(app, [], prog_name="comel").stdout.split()) == expected


def test_choices_are_completed() -> None:
    command = dict(made_commands())["extract"]
    context = command.make_context("extract", [], resilient_parsing=True)
    (tissue,) = [parameter for parameter in context.command.params if parameter.name == "tissue"]
    assert [item.value for item in tissue.shell_complete(context, "m")] == ["mask"]
