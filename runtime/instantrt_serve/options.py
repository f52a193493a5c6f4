"""`instantrt serve` and `instantrt keys`: their arguments, and mistakes that show without the extra's packages."""

from __future__ import annotations

import argparse
import ipaddress
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from instantrt.cli.arguments import add_json_argument, parse_positive
from instantrt.cli.bundles import add_bundle_arguments
from instantrt.cli.outputs import check_files
from instantrt.engine import OPENVINO_DEVICES, PRECISION_HINTS, OpenVinoDevice, PrecisionHint
from instantrt.errors import InstantRTError

SQLITE = "sqlite:///"
DATABASE = f"{SQLITE}instantrt-serve.db"


class ConfigError(InstantRTError):
    """A setting of the server that cannot be."""

    code = "config"


@dataclass(frozen=True)
class ServeOptions:
    """Options of `instantrt serve`. None means not given: the TOML file's setting or the default holds."""

    bundle: str
    cache: Path | None = None
    config: Path | None = None
    check: bool = False
    host: str | None = None
    port: int | None = None
    no_keys: bool | None = None
    database: str | None = None
    target: str | None = None
    threads: int | None = None
    device: int | None = None
    runtime_cache: Path | None = None
    precision_hint: PrecisionHint | None = None
    openvino_device: OpenVinoDevice | None = None
    slots: int | None = None
    lanes: int | None = None
    tracks: int | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """The settings that were given."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        own = ("bundle", "cache", "config", "check")
        return {name: value for name, value in given.items() if value is not None and name not in own}


@dataclass(frozen=True, kw_only=True)
class KeysOptions:
    """Options of `instantrt keys list`, which the others have too."""

    config: Path | None = None
    database: str | None = None
    json: bool = False

    @property
    def database_url(self) -> str:
        """From the flag, the TOML file, or the default.

        Raises:
            ConfigError: the file cannot be read.
        """
        return str(self.database or read_toml(self.config).get("database", DATABASE))


@dataclass(frozen=True, kw_only=True)
class CreateOptions(KeysOptions):
    """Options of `instantrt keys create`."""

    name: str
    credits: int = 0


@dataclass(frozen=True, kw_only=True)
class RevokeOptions(KeysOptions):
    """Options of `instantrt keys revoke`."""

    key: str


@dataclass(frozen=True, kw_only=True)
class GrantOptions(KeysOptions):
    """Options of `instantrt keys grant`."""

    key: str
    credits: int


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt serve`."""
    add_bundle_arguments(parser)
    _add_database_arguments(parser)
    parser.add_argument("--check", action="store_true", help="check the settings and the database, print, and end")
    parser.add_argument("--host", help="address to listen at")
    parser.add_argument("--port", type=int, help="0 takes a free one")
    parser.add_argument("--no-keys", action="store_true", default=None, help="no keys; only on a loopback address")
    parser.add_argument("--target", metavar="NAME", help="what executes the networks")
    parser.add_argument("--threads", type=parse_positive, help="CPU threads of the target")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--runtime-cache", metavar="FOLDER", type=Path, help="what TensorRT-RTX or OpenVINO compiled")
    parser.add_argument("--precision-hint", choices=PRECISION_HINTS, help="what OpenVINO computes in (default: f32)")
    parser.add_argument("--openvino-device", choices=OPENVINO_DEVICES, help="what it runs on (default: CPU)")
    parser.add_argument("--slots", type=parse_positive, help="pictures denoised side by side (default: measured)")
    parser.add_argument("--lanes", type=parse_positive, help="batches that take turns (default: as many as fit)")
    parser.add_argument("--tracks", type=parse_positive, help="batches at once on a CPU (default: 2 if that does more)")


def check_serve_options(options: ServeOptions) -> None:
    """Mistakes that show at once.

    Raises:
        ConfigError: the TOML file cannot be read, or a server without keys would be reachable from outside.
        OutputError: the database's file cannot be written.
    """
    settings = {**read_toml(options.config), **options.flags}
    check_host(str(settings.get("host", "127.0.0.1")), no_keys=settings.get("no_keys") is True)
    check_database(str(settings.get("database", DATABASE)))


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt keys create`."""
    parser.add_argument("name", metavar="NAME", help="whose key it is")
    parser.add_argument("--credits", type=int, help="to begin with (default: %(default)s)")
    _add_keys_arguments(parser)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt keys list`."""
    _add_keys_arguments(parser)


def add_revoke_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt keys revoke`."""
    parser.add_argument("key", metavar="KEY_ID", help="as `instantrt keys list` shows it")
    _add_keys_arguments(parser)


def add_grant_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt keys grant`."""
    parser.add_argument("key", metavar="KEY_ID", help="as `instantrt keys list` shows it")
    parser.add_argument("credits", metavar="CREDITS", type=int, help="to add; negative ones are taken away")
    _add_keys_arguments(parser)


def check_keys_options(options: KeysOptions) -> None:
    """Mistakes that show at once.

    Raises:
        ConfigError: the TOML file cannot be read.
        OutputError: the database's file cannot be written.
    """
    check_database(options.database_url)


def read_toml(file: Path | None) -> dict[str, Any]:
    """The settings in a file; none without one.

    Raises:
        ConfigError: it is missing, cannot be read, or is not TOML.
    """
    if file is None:
        return {}
    hint = "give a file of settings such as `port = 8000`"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", found=str(error.strerror), hint=hint) from error
    except ValueError as error:  # not TOML, not UTF-8
        raise ConfigError(f"{file} is not TOML", found=str(error), hint=hint) from error


def check_host(host: str, *, no_keys: bool) -> None:
    """Raise :class:`ConfigError` for a server without keys that others than this machine could reach."""
    if no_keys and not is_loopback(host):
        hint = "leave --no-keys out and make keys with `instantrt keys create`, or listen at 127.0.0.1"
        raise ConfigError("without keys only this machine may be served", found=f"host {host}", hint=hint)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name ``localhost``, is this machine's own; other names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_database(url: str) -> None:
    """Raise :class:`OutputError` if the database is a file that cannot be written."""
    if url.startswith(SQLITE) and url != SQLITE:
        check_files([Path(url.removeprefix(SQLITE).partition("?")[0])])


def _add_keys_arguments(parser: argparse.ArgumentParser) -> None:
    _add_database_arguments(parser)
    add_json_argument(parser)


def _add_database_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="the server's settings, as TOML")
    parser.add_argument("--database", metavar="URL", help=f"keys, credits and jobs (default: {DATABASE})")
