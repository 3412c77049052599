"""The server's settings: one model, read here and nowhere else.

In: flags, `LOSSWIRE_…` variables, a TOML file; the first of them that names a setting decides.
Out: a frozen `ServerSettings`, or a `StartupError` of one line.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from losswire_server import contradictions
from losswire_server.errors import StartupError
from losswire_server.memory import LARGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20

_MOST: Final = 1 << 60
"""Of numbers of bytes and the like: sums of them fit 64 bits."""

PREFIX: Final = "LOSSWIRE_"

_OF_CLIENTS: Final = frozenset(
    {"target", "token", "check_ca", "check_certificate", "check_key", "check_server_name"}
)
"""Variables that the command's other parts read."""

_OF_KUBERNETES: Final = frozenset({"service_host", "service_port"})
"""Variables that a service of this name has it set, and that are like settings."""

_ALIKE: Final = 0.68
"""Names this similar are one name and a slip of the hand."""


def _nameable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path holds no zero byte")
    return path


FilePath: TypeAlias = Annotated[Path, AfterValidator(_nameable)]
"""A path that the system takes."""


class ServerSettings(BaseSettings):
    """Flags win over LOSSWIRE_<NAME> variables, these over the TOML file, this over defaults."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="losswire serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
    )

    config: Annotated[FilePath | None, Field(description="TOML file with these settings")] = None
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, le=65535, description="TCP port to listen on; 0 picks a free one")
    ] = 50051
    unix_socket: Annotated[
        FilePath | None, Field(description="listen on this Unix socket instead of TCP")
    ] = None
    unix_socket_mode: Annotated[
        str, Field(pattern=r"^0?[0-7]{3}$", description="permissions of the socket, in octal")
    ] = "600"
    tls_certificate: Annotated[
        FilePath | None,
        Field(description="PEM file: the server's certificate and its chain, for TLS"),
    ] = None
    tls_key: Annotated[FilePath | None, Field(description="PEM file: the certificate's key")] = None
    tls_client_ca: Annotated[
        FilePath | None,
        Field(description="PEM file: authorities, by one of which each client is certified"),
    ] = None
    token_file: Annotated[
        FilePath | None,
        Field(description="bearer tokens, one a line, of which each call needs one"),
    ] = None
    insecure: Annotated[
        bool, Field(description="allow plain text on addresses that other machines reach")
    ] = False
    engine: Annotated[
        Literal["auto", "numpy", "cupy"],
        Field(description="what computes; auto takes the GPU where there is one it can use"),
    ] = "auto"
    threads: Annotated[
        int | None, Field(ge=1, description="threads of the NumPy engine; one per core if not set")
    ] = None
    devices: Annotated[
        str,
        Field(pattern=r"^(all|\d+(,\d+)*)$", description="GPUs to compute on: all, or as in 0,1"),
    ] = "0"
    gpu_memory_bytes: Annotated[
        int | None,
        Field(ge=MIB, le=_MOST, description="memory used of each GPU; a quarter of it if not set"),
    ] = None
    kernel_cache: Annotated[
        FilePath | None,
        Field(description="folder for compiled GPU kernels; those in it are ready at the start"),
    ] = None
    max_message_bytes: Annotated[
        int, Field(ge=4096, le=2**31 - 1, description="largest message accepted")
    ] = 512 * MIB
    queue_bytes: Annotated[
        int, Field(ge=4096, le=_MOST, description="tensor bytes admitted and not yet answered")
    ] = 2048 * MIB
    queue_requests: Annotated[
        int, Field(ge=1, le=_MOST, description="requests admitted and not yet answered")
    ] = 1 << 16
    max_streams: Annotated[
        int,
        Field(ge=1, le=_MOST, description="ComputeStream and ComputeMany calls at the same time"),
    ] = 1024
    client_share: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="part of queue, streams and their blocks that one client may have",
        ),
    ] = 0.5
    max_metadata_bytes: Annotated[
        int, Field(ge=1024, le=MIB, description="largest headers of a call")
    ] = 16 << 10
    stream_bytes: Annotated[
        int,
        Field(
            ge=4096, le=_MOST, description="bytes of streamed blocks in flight, over all streams"
        ),
    ] = 256 * MIB
    pool_bytes: Annotated[
        int,
        Field(ge=0, le=LARGEST, description="freed memory that is kept for the next requests"),
    ] = 1024 * MIB
    max_region_bytes: Annotated[
        int,
        Field(
            ge=0, le=_MOST, description="memory that a process on this host may share; 0 for none"
        ),
    ] = 4096 * MIB
    shared_directory: Annotated[
        FilePath | None,
        Field(description="folder that containers on this host see too, to share memory with them"),
    ] = None
    max_batch_rows: Annotated[int, Field(ge=1, le=_MOST, description="rows computed together")] = (
        1 << 17
    )
    max_batch_bytes: Annotated[
        int, Field(ge=1, le=_MOST, description="bytes computed together")
    ] = 64 * MIB
    max_wait_us: Annotated[
        int,
        Field(
            ge=0, le=1_000_000, description="longest wait for company, where there was some before"
        ),
    ] = 1000
    drain_seconds: Annotated[
        float, Field(ge=0, description="on SIGTERM, time for calls in flight to finish")
    ] = 30.0
    metrics_host: Annotated[
        str, Field(min_length=1, description="address of the metrics and the status page")
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int | None,
        Field(
            ge=0, le=65535, description="port of the metrics and the status page; none for neither"
        ),
    ] = None
    tracing: Annotated[
        bool, Field(description="traces by OpenTelemetry, to where its own variables say")
    ] = False
    reflection: Annotated[bool, Field(description="serve gRPC reflection")] = True
    log_format: Annotated[Literal["text", "json"], Field(description="form of log lines")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least level logged")
    ] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keywords, then environment, then file; pydantic puts the flags before all of them."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def address(self) -> str:
        """Where to listen, as gRPC names it."""
        if self.unix_socket:
            return f"unix:{self.unix_socket}"
        return f"{self.url_host}:{self.port}"

    @property
    def unix_socket_permissions(self) -> int:
        """The mode of the Unix socket as a number."""
        return int(self.unix_socket_mode, 8)

    @property
    def url_host(self) -> str:
        """The host as addresses write it: IPv6 in brackets."""
        is_bare_ipv6 = ":" in self.host and not self.host.startswith("[")
        return f"[{self.host}]" if is_bare_ipv6 else self.host


def load_settings(arguments: Sequence[str] = (), **keywords: Any) -> ServerSettings:
    """Settings from flags, environment and TOML file, with `keywords` in the place of flags.

    Raises:
        StartupError: a setting that is unknown or outside what is allowed, or that contradicts
            another; an unreadable file.
        SystemExit: `--help`.
    """
    _check_variables()
    path = _config_path(arguments, keywords)
    configured = type(
        "ServerSettings",
        (ServerSettings,),
        {"model_config": {"toml_file": path}, "__doc__": ServerSettings.__doc__},
    )
    try:
        settings: ServerSettings = configured(_cli_parse_args=list(arguments) or None, **keywords)
    except ValidationError as error:
        raise StartupError("; ".join(_line(each) for each in error.errors())) from error
    except SettingsError as error:
        raise StartupError(_flag_line(str(error))) from error
    contradictions.check(settings)
    return settings


def _config_path(arguments: Sequence[str], keywords: dict[str, Any]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        flag = parser.parse_known_args(list(arguments))[0].config
    except argparse.ArgumentError:
        return None  # the full parser will say what is wrong with it
    name = flag or keywords.get("config") or os.environ.get("LOSSWIRE_CONFIG")
    if not name:
        return None
    path = Path(name)
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"config: cannot read {path}: {error}") from error
    return path


def _check_variables() -> None:
    """Finds mistyped names: a server that misses one would run, perhaps without its tokens.

    What is not alike is someone else's, such as what Kubernetes sets for a service of this name.
    """
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        is_known = name in {*ServerSettings.model_fields, *_OF_CLIENTS, *_OF_KUBERNETES}
        if is_known or not variable.startswith(PREFIX):
            continue
        if difflib.get_close_matches(name, ServerSettings.model_fields, cutoff=_ALIKE):
            raise StartupError(f"{variable}: {_unknown(name).partition(': ')[2]}")


def _line(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return _unknown(name)
    return f"{name}: {error['msg']}, received {error['input']!r}"


def _flag_line(message: str) -> str:
    """What argparse says of flags, as a line of ours."""
    problem = message.removeprefix("error parsing CLI: ")
    name = re.match(r"unrecognized arguments: --(?:no-)?([^\s=]+)", problem)
    return _unknown(name[1].replace("-", "_")) if name else problem


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, ServerSettings.model_fields, n=1, cutoff=0)[0]
    return f"{name}: no such setting; the nearest is {nearest}, `losswire serve --help` lists all"
