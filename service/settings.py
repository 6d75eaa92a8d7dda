"""What the service is told: by arguments, by environment variables that start with ``COMEL_``, or by a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from comel.errors import ConfigError
from service.jobs.settings import JobSettings

__all__ = ["ServiceSettings"]

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ServiceSettings(JobSettings, BaseSettings):
    """Settings of ``comel serve``. How slides are extracted is not set here: the run's feature contract says it.

    An argument wins over the environment, the environment over the file, the file over the default.

    Raises:
        ConfigError: the settings file cannot be read.
    """

    model_config = SettingsConfigDict(env_prefix="COMEL_", extra="forbid", frozen=True)

    settings_file: Path | None = Field(default=None, description="YAML file with any of the other settings")
    runs: dict[ModelName, Path] = Field(
        default={}, description="models by name, each a run directory; the first is the default; JSON in the environment"
    )
    slide_roots: tuple[Path, ...] = Field(
        default=(),
        description="folders whose slides may be shown and named in requests; a JSON list in the environment",
    )
    tissue_folder: Path | None = Field(
        default=None,
        description="folder of tissue that you drew, <name of the slide>.geojson, .png, ...; for models that were trained so",
    )
    state_dir: Path = Field(default=Path("comel-state"), description="folder of predictions, maps, keys and the audit log")
    max_upload_bytes: int = Field(
        default=2 << 30, gt=0, description="largest request body, and largest decoded array of a bag, in bytes"
    )
    max_instances: int = Field(default=500_000, gt=0, description="most tiles of one bag or slide")
    max_connections: int = Field(
        default=1000, gt=0, description="most open connections; beyond, one that is idle is closed, or the new one refused"
    )
    request_seconds: float = Field(
        default=30,
        gt=0,
        description="longest that a request's head may take, or its body make wait; a body also brings 1 KiB a second",
    )
    requests_per_minute: int = Field(default=120, gt=0, description="most requests of one API key in a minute")
    require_keys: bool | None = Field(
        default=None, description="whether to ask for API keys in any case; none: where host is not a loopback address"
    )
    oidc_issuer: str | None = Field(
        default=None, description="OpenID Connect provider whose bearer tokens are taken beside API keys; none: keys only"
    )
    oidc_audience: str = Field(default="comel", description="what a token must name as its audience")
    oidc_scope_claim: str = Field(
        default="scope", description="claim of a token that lists scopes, roles or groups; dots lead into objects"
    )
    oidc_scopes: dict[str, Literal["read", "predict", "manage", "admin"]] = Field(
        default={"comel:read": "read", "comel:predict": "predict", "comel:manage": "manage", "comel:admin": "admin"},
        description="what is listed there, and the scope that it stands for; JSON in the environment",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="origins whose web pages may call the service; a JSON list in the environment; none: no page"
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="prefix that a proxy serves the service below, such as /comel, whether or not it cuts that off",
    )
    device: str = Field(default="auto", description="auto, cpu or cuda, for the model and the patch encoder")
    host: str = Field(default="127.0.0.1", description="address to listen on; other than loopback needs an API key")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on")

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
    """Variables, each in place of what comes after it: models of an argument and of the environment do not mix."""

    def __call__(self) -> dict[str, Any]:
        return _without(super().__call__(), self.current_state)


class _FileSource(PydanticBaseSettingsSource):
    """The file that the sources before this one name, if they name one."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        import yaml

        path = self.current_state.get("settings_file")
        if path is None:
            return {}
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})", "check the path") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ConfigError(f"{path}: not YAML", "write one 'setting: value' a line") from None
        if content is None:
            return {}
        if not isinstance(content, dict) or "settings_file" in content or not all(isinstance(name, str) for name in content):
            raise ConfigError(f"{path}: no mapping of settings", "write one 'setting: value' a line")
        return _without(content, self.current_state)


def _without(content: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in known}
