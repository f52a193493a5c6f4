"""The server's settings: one TOML file, and flags that override it. All of them, with their defaults, are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instantrt.engine import OpenVinoDevice, PrecisionHint
from instantrt.plain import shown
from instantrt_serve.options import DATABASE, ConfigError, check_host, read_toml


class ServeConfig(BaseModel):
    """Settings of one server. Numbers have their units in their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen at")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen at; 0 takes a free one")
    no_keys: bool = Field(False, description="take requests without keys; only on a loopback address")
    database: str = Field(DATABASE, description="keys, credits and jobs, as SQLAlchemy writes it")
    instance: str = Field("main", pattern=r"^[\w.-]{1,64}$", description="names this server among those of a database")

    target: str = Field("onnxruntime", description="what executes the networks")
    threads: int | None = Field(None, ge=1, description="CPU threads of the target")
    device: int | None = Field(None, ge=0, description="number of the GPU")
    runtime_cache: Path | None = Field(None, description="what TensorRT-RTX or OpenVINO compiled")
    precision_hint: PrecisionHint | None = Field(None, description="what OpenVINO computes in; `f32` by default")
    openvino_device: OpenVinoDevice | None = Field(None, description="what OpenVINO runs on; the CPU by default")
    slots: int | None = Field(None, ge=1, le=64, description="pictures denoised side by side; measured by default")
    lanes: int | None = Field(None, ge=1, le=64, description="batches that take turns; as many as fit by default")
    tracks: int | None = Field(
        None, ge=1, le=64, description="batches at once on a CPU; 2 by default if that does more"
    )

    price: int = Field(1, ge=0, le=1_000_000, description="credits for a picture and each started 10 steps")
    timeout_s: float = Field(120, gt=0, le=86_400, description="a v1 answer comes within this time or fails")
    body_timeout_s: float = Field(20, gt=0, le=3600, description="a body arrives within this time")
    drain_s: float = Field(30, ge=0, le=3600, description="after SIGTERM, time for requests in work")
    max_body_bytes: int = Field(20_000_000, ge=1000, le=1_000_000_000, description="of a request")
    max_header_bytes: int = Field(16_384, ge=1024, le=1_000_000, description="of a request's line and headers")
    max_uploads: int = Field(32, ge=1, le=10_000, description="bodies received at once; others wait unread")
    max_waiting: int = Field(
        256, ge=1, le=100_000, description="requests in line or in work; a lone key has half of it"
    )
    max_photo_bytes: int = Field(1 << 30, ge=1, description="of the photos of all of them")
    max_jobs: int = Field(1000, ge=1, le=1_000_000, description="v2 jobs that have not ended")
    max_attempts: int = Field(3, ge=1, le=100, description="how often a v2 job is begun when workers die")
    keep_results_s: float = Field(86_400, gt=0, le=31_536_000, description="v2 results are kept for so long")

    fetch_hosts: tuple[str, ...] = Field((), description="hosts from which photos may be fetched by https address")
    fetch_timeout_s: float = Field(5, gt=0, le=60, description="for one photo, redirects included")
    cors_origins: tuple[str, ...] = Field((), description="web pages of these origins may use the API")
    provenance: bool = Field(True, description="pictures carry the request's id")
    page: bool = Field(True, description="show the page at /")
    metrics: bool = Field(True, description="show /metrics")
    traces: str | None = Field(None, description="OTLP endpoint that traces are sent to; needs the extra `tracing`")


def load_config(file: Path | None, flags: dict[str, Any]) -> ServeConfig:
    """The settings of a TOML file with flags over them.

    Args:
        file: may be left out.
        flags: settings by name.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of the wrong type or out of range, or a server
            without keys would be reachable from outside.
    """
    try:
        config = ServeConfig.model_validate({**read_toml(file), **flags})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        what = f"the setting {name} does not fit: {first['msg'].lower()}"
        hint = f"settings are: {', '.join(ServeConfig.model_fields)}"
        raise ConfigError(what, found=shown(first["input"]), hint=hint) from None
    check_host(config.host, no_keys=config.no_keys)
    return config
