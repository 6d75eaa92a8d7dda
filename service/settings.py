"""Settings of the service: arguments, environment variables that start with ``COMEL_``, or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from comel.base.kinds import Written
from comel.base.settings import load_yaml
from comel.base.trust import Trust
from comel.errors import ConfigError

__all__ = ["JobSettings", "ServiceSettings"]

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _by_name(runs: Any) -> Any:
    """``NAME=RUN`` or a run's folder, several of them, by name."""
    if not isinstance(runs, (list, tuple)):
        return runs
    named: dict[str, Path] = {}
    for each in runs:
        name, sign, path = str(each).partition("=")
        run = Path(path if sign else name)
        name = name if sign else run.resolve().name
        if name in named:
            raise ConfigError(f"two models are called '{name}'", f"give one another name: --model OTHER={run}")
        named[name] = run
    return named


class JobSettings(BaseModel):
    """Settings of the database and everything stored in it."""

    database_url: SecretStr | None = Field(
        default=None, description="postgresql://USER@HOST/NAME for workers on several machines; none: SQLite in state_dir"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="worker processes; none: one per GPU, or one without; 0: only comel worker's",
    )
    worker_memory_bytes: int = Field(
        default=16 << 30, gt=0, description="most memory of one worker process in bytes; a slide that needs more fails"
    )
    job_timeout_seconds: float = Field(default=3600, gt=0, description="longest time of one attempt at a job")
    max_attempts: int = Field(default=3, gt=0, description="attempts at a job whose worker crashes or goes silent")
    lease_seconds: float = Field(default=30, ge=1, description="time a worker may be silent before another takes its job")
    grace_seconds: float = Field(default=30, ge=0, description="time a job may continue after the service was asked to stop")
    max_queued_jobs: int = Field(default=1000, gt=0, description="most waiting jobs; beyond: 429")
    retry_seconds: int = Field(default=30, gt=0, description="value of Retry-After if the queue is full")
    sync_max_instances: int = Field(
        default=20_000, ge=0, description="most tiles of a bag answered at once; a larger one becomes a job"
    )
    sync_timeout_seconds: float = Field(default=60, gt=0, description="longest time of a bag answered at once")
    upload_part_bytes: int = Field(default=16 << 20, gt=0, description="largest part of a resumable upload in bytes")
    max_slide_bytes: int = Field(default=16 << 30, gt=0, description="largest resumable upload in bytes")
    upload_hours: float = Field(default=24, gt=0, description="time an upload is kept after its last part")
    keep_days: float | None = Field(
        default=None, gt=0, description="days after which predictions and ended jobs are deleted; none: never"
    )
    max_state_bytes: int | None = Field(
        default=None, gt=0, description="most bytes of predictions and uploads; the oldest predictions go first; none: no limit"
    )
    max_key_bytes: int | None = Field(
        default=None, gt=0, description="most bytes of predictions and uploads of one API key; none: no limit"
    )
    max_key_uploads: int = Field(default=100, gt=0, description="most incomplete uploads of one API key")
    webhook_hosts: tuple[str, ...] = Field(
        default=(),
        description="hosts that webhooks may call when jobs end, such as lims.example.org; a JSON list; none: no webhooks",
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="secret that signs webhook calls, known to their receivers"
    )
    webhook_private: bool = Field(
        default=False, description="let webhooks reach private and loopback addresses, and use http there"
    )


class ServiceSettings(JobSettings, BaseSettings):
    """Settings of ``comel serve``. The extraction of slides is not set here: the run's feature contract defines it.

    An argument overrides the environment, the environment overrides the file, the file overrides the default.

    Raises:
        ConfigError: the settings file cannot be read.
    """

    model_config = SettingsConfigDict(env_prefix="COMEL_", extra="forbid", frozen=True)

    settings_file: Path | None = Field(default=None, description="YAML file with any of the other settings")
    runs: Annotated[dict[ModelName, Path], BeforeValidator(_by_name), Written(list[str])] = Field(
        default={}, description="models by name, each a run directory; the first is the default; JSON in the environment"
    )
    slide_roots: tuple[Path, ...] = Field(
        default=(),
        description="folders whose slides may be shown and named in requests; a JSON list in the environment",
    )
    trusted_code: tuple[str, ...] = Field(
        default=(),
        description="your own code that runs may load: FILE.py, FILE.py:Class or hf:NAME; a JSON list in the environment",
    )
    tissue_folder: Path | None = Field(
        default=None,
        description="folder of your own tissue outlines, <slide name>.geojson, .png, ...; for models trained with them",
    )
    state_dir: Path = Field(default=Path("comel-state"), description="folder of predictions, maps, keys and the audit log")
    max_upload_bytes: int = Field(
        default=2 << 30, gt=0, description="largest request body, and largest decoded array of a bag, in bytes"
    )
    max_instances: int = Field(default=500_000, gt=0, description="most tiles of one bag or slide")
    max_connections: int = Field(
        default=1000, gt=0, description="most open connections; beyond, an idle one is closed, or the new one refused"
    )
    request_seconds: float = Field(
        default=30,
        gt=0,
        description="longest wait for a request's head or body; a body must also average 1 KiB per second",
    )
    requests_per_minute: int = Field(default=120, gt=0, description="most requests of one API key per minute")
    require_keys: bool | None = Field(
        default=None, description="whether API keys are always required; none: if host is not a loopback address"
    )
    oidc_issuer: str | None = Field(
        default=None, description="OpenID Connect provider whose bearer tokens are accepted besides API keys; none: keys only"
    )
    oidc_audience: str = Field(default="comel", description="audience that a token must name")
    oidc_scope_claim: str = Field(
        default="scope", description="claim of a token that lists scopes, roles or groups; dots lead into objects"
    )
    oidc_scopes: dict[str, Literal["read", "predict", "manage", "admin"]] = Field(
        default={"comel:read": "read", "comel:predict": "predict", "comel:manage": "manage", "comel:admin": "admin"},
        description="the values listed there, and the scope of each; JSON in the environment",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="origins whose web pages may call the service; a JSON list in the environment; none: no page"
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="prefix that a proxy serves the service below, such as /comel, whether or not the proxy strips it",
    )
    device: str = Field(default="auto", description="auto, cpu or cuda, for the model and the patch encoder")
    host: str = Field(default="127.0.0.1", description="address to listen on; other than loopback needs an API key")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on")

    def trust(self) -> Trust:
        """What runs may load beyond built-ins and installed packages.

        Raises:
            ConfigError: ``trusted_code`` names something else than a file of code that is there, or a model of a hub.
        """
        return Trust(self.trusted_code, setting="trusted_code")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, file: the first that has a setting wins."""
        return init_settings, _EnvironmentSource(settings_cls), _FileSource(settings_cls)


class _EnvironmentSource(EnvSettingsSource):
    """Variables, each replacing later sources: models of an argument and of the environment do not mix."""

    def __call__(self) -> dict[str, Any]:
        return _without(super().__call__(), self.current_state)


class _FileSource(PydanticBaseSettingsSource):
    """The file that the earlier sources name, if any."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("settings_file")
        if path is None:
            return {}
        # Paths are not resolved: a relative state folder starts from the folder the service is started in.
        content = load_yaml(Path(path), self.settings_cls, relative=False)
        if "settings_file" in content:
            raise ConfigError(f"{path}: contains settings_file", "remove it: a settings file cannot name another")
        return _without(content, self.current_state)


def _without(content: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in known}
