"""What the service is told: by arguments, by environment variables that start with ``COMEL_``, or by a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from comel.errors import ConfigError

__all__ = ["ServiceSettings"]


class ServiceSettings(BaseSettings):
    """Settings of ``comel serve``. How slides are extracted is not set here: the run's feature contract says it.

    An argument wins over the environment, the environment over the file, the file over the default.

    Raises:
        ConfigError: the settings file cannot be read.
    """

    model_config = SettingsConfigDict(env_prefix="COMEL_", extra="forbid", frozen=True)

    settings_file: Path | None = Field(default=None, description="YAML file with any of the settings below")
    run: Path = Field(description="run directory whose current version answers")
    slide_root: Path | None = Field(default=None, description="folder whose slides may be named in requests; none: bags only")
    state_dir: Path = Field(default=Path("comel-state"), description="folder of predictions, maps, keys and the audit log")
    max_upload_bytes: int = Field(
        default=2 << 30, gt=0, description="largest request body, and largest decoded array of a bag, in bytes"
    )
    max_instances: int = Field(default=500_000, gt=0, description="most tiles of one bag or slide")
    requests_per_minute: int = Field(default=120, gt=0, description="most requests of one API key in a minute")
    cors_origins: tuple[str, ...] = Field(
        default=(), description="origins whose web pages may call the service; a JSON list in the environment; none: no page"
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
        return init_settings, env_settings, _FileSource(settings_cls)


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
        return content
