"""The scheduler config of a checkpoint (diffusers' ``scheduler_config.json``) and how each scheduler class reads it.

diffusers swaps samplers with ``OtherScheduler.from_config(config)``: keys that the other class knows are taken from the
config, keys that the config does not say take the *other* class's default, keys that the class does not know are left
out. The tables follow that rule key by key, because the defaults differ between classes (``timestep_spacing`` is
"linspace" for Euler and "leading" for DDIM, ``clip_sample`` is true for DDIM and false for Heun).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from types import MappingProxyType
from typing import Any

from instantrt.errors import BundleError
from instantrt.request import RANGES

MAX_STEPS = int(RANGES["steps"].high)

# Classes whose configs describe a variance-preserving discrete noise schedule. EDM and flow-matching configs do not.
KNOWN_CLASSES = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)

_BOOL, _INT, _REAL, _TEXT, _REALS = "true or false", "a whole number", "a number", "a text", "a list of numbers"

# Every key that the scheduler classes of our samplers read, with what it must be.
_READ_KEYS: Mapping[str, str] = {
    "algorithm_type": _TEXT,
    "beta_end": _REAL,
    "beta_schedule": _TEXT,
    "beta_start": _REAL,
    "clip_sample": _BOOL,
    "euler_at_final": _BOOL,
    "final_sigmas_type": _TEXT,
    "interpolation_type": _TEXT,
    "lambda_min_clipped": _REAL,
    "lower_order_final": _BOOL,
    "num_train_timesteps": _INT,
    "original_inference_steps": _INT,
    "prediction_type": _TEXT,
    "rescale_betas_zero_snr": _BOOL,
    "set_alpha_to_one": _BOOL,
    "sigma_max": _REAL,
    "sigma_min": _REAL,
    "solver_order": _INT,
    "solver_type": _TEXT,
    "steps_offset": _INT,
    "thresholding": _BOOL,
    "timestep_scaling": _REAL,
    "timestep_spacing": _TEXT,
    "timestep_type": _TEXT,
    "trained_betas": _REALS,
    "use_beta_sigmas": _BOOL,
    "use_dynamic_shifting": _BOOL,
    "use_exponential_sigmas": _BOOL,
    "use_flow_sigmas": _BOOL,
    "use_karras_sigmas": _BOOL,
    "use_lu_lambdas": _BOOL,
    "variance_type": _TEXT,
}
_OPTIONAL_KEYS = frozenset({"sigma_max", "sigma_min", "trained_betas", "variance_type"})

# Keys that change nothing here: options of classes that none of our samplers uses, or of switches that are refused
# when they are on.
_IDLE_KEYS = frozenset(
    {
        "clip_sample_range",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "flow_shift",
        "predict_x0",
        "sample_max_value",
        "skip_prk_steps",
        "solver_p",
        "time_shift_type",
    }
)

# What the tables can express. A key that is not listed here takes any value of its kind.
_SUPPORTED: Mapping[str, tuple[object, ...]] = {
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "clip_sample": (False,),
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("linear",),
    "prediction_type": ("epsilon", "v_prediction"),
    "solver_order": (2,),
    "solver_type": ("midpoint", "heun"),
    "thresholding": (False,),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "timestep_type": ("discrete",),
    "use_beta_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "use_exponential_sigmas": (False,),
    "use_flow_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
_EVERY_SAMPLER_READS = ("prediction_type", "beta_schedule", "timestep_spacing")

_EDIT_HINT = "correct scheduler/scheduler_config.json in the checkpoint and export again"


@dataclass(frozen=True)
class Scheduler:
    """A diffusers scheduler class as far as the tables need it: its name and the defaults of the keys it reads."""

    diffusers_class: str
    defaults: Mapping[str, object]


@dataclass(frozen=True)
class Settings:
    """What one sampler has to know of the noise schedule; the fields carry diffusers' names and meanings.

    ``beta_*`` are variances per training timestep, ``sigma_*`` are noise over signal, ``steps_offset`` counts training
    timesteps, ``lambda_min_clipped`` is the natural logarithm of signal over noise.
    """

    beta_start: float
    beta_end: float
    beta_schedule: str
    prediction_type: str
    num_train_timesteps: int = 1000
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    use_karras_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"
    set_alpha_to_one: bool = True
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = float("-inf")
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0


@dataclass(frozen=True)
class SchedulerConfig:
    """A validated ``scheduler_config.json``: exactly the keys that it says, without any class's defaults."""

    values: Mapping[str, Any]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SchedulerConfig:
        """Read a diffusers scheduler config.

        Raises:
            BundleError: the config is of a kind that no sampler table can express, has a key that is unknown here
                and switched on, or has a value of the wrong type.
        """
        unsaid = {"_use_default_values", *data.get("_use_default_values", ())}
        values = {key: value for key, value in data.items() if key not in unsaid}
        _check_class(values.get("_class_name"))
        for key, value in values.items():
            if not key.startswith("_"):
                _check_key(key, value)
        for key in _EVERY_SAMPLER_READS:
            if key in values:
                _check_supported(key, values[key], source="")
        return cls(MappingProxyType(values))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``bundle.json``, which :meth:`from_json` reads back."""
        return dict(self.values)

    def settings(self, scheduler: Scheduler, overrides: Mapping[str, object]) -> Settings:
        """The config as ``scheduler`` reads it, with the keys in ``overrides`` set for the sampler.

        Raises:
            BundleError: a resulting value is one that a table of linear maps cannot express.
        """
        said = {key: value for key, value in self.values.items() if key in scheduler.defaults}
        # diffusers reads these two off the config even where the class itself does not declare them.
        said |= {key: self.values[key] for key in ("sigma_min", "sigma_max") if key in self.values}
        merged = {**scheduler.defaults, **said, **overrides}
        if merged.get("solver_type") in ("logrho", "bh1", "bh2"):  # of DEIS and UniPC configs; read so by DPM-Solver
            merged["solver_type"] = "midpoint"
        for key, value in merged.items():
            source = "" if key in said else f" (the default of {scheduler.diffusers_class})"
            _check_supported(key, value, source)
        return _settings(merged)


def _settings(merged: Mapping[str, Any]) -> Settings:
    settings = Settings(
        **{field.name: _value(field.name, merged) for field in fields(Settings) if field.name in merged}
    )
    timesteps = settings.num_train_timesteps
    if timesteps <= MAX_STEPS:
        _refuse(f"num_train_timesteps must exceed {MAX_STEPS}", "num_train_timesteps", timesteps)
    if settings.trained_betas is not None and len(settings.trained_betas) != timesteps:
        _refuse(
            "trained_betas must have num_train_timesteps entries", "len(trained_betas)", len(settings.trained_betas)
        )
    if not 0 <= settings.beta_start < 1 or not 0 < settings.beta_end < 1:
        found = f"{settings.beta_start}..{settings.beta_end}"
        raise BundleError("beta_start and beta_end must be variances below 1", found=found, hint=_EDIT_HINT)
    if not 0 < settings.original_inference_steps <= timesteps:
        steps = settings.original_inference_steps
        _refuse("original_inference_steps must lie in 1..num_train_timesteps", "original_inference_steps", steps)
    return settings


def _value(key: str, merged: Mapping[str, Any]) -> Any:
    value = merged[key]
    kind = _READ_KEYS[key]
    if kind == _BOOL:
        return bool(value)
    if kind == _REALS and value is not None:
        return tuple(float(v) for v in value)
    return float(value) if kind == _REAL and value is not None else value


def _check_class(name: object) -> None:
    if name is not None and name not in KNOWN_CLASSES:
        raise BundleError(
            "no sampler can be made from this scheduler config's class",
            found=f"_class_name={name!r}",
            hint="use a checkpoint with one of: " + ", ".join(sorted(KNOWN_CLASSES)),
        )


def _check_key(key: str, value: object) -> None:
    if key in _READ_KEYS:
        if not _is_kind(value, _READ_KEYS[key], optional=key in _OPTIONAL_KEYS):
            _refuse(f"{key} in the scheduler config must be {_READ_KEYS[key]}", key, value)
    elif key not in _IDLE_KEYS and value is not None and value is not False:
        # An unknown option that is on may change every number; one that is off cannot.
        _refuse("the scheduler config has an unknown key", key, value)


def _is_kind(value: object, kind: str, *, optional: bool) -> bool:
    if value is None:
        return optional or kind == _BOOL  # diffusers saves some switches that are off as null
    if kind == _BOOL:
        return isinstance(value, bool)
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _REALS:
        return isinstance(value, (list, tuple)) and all(_is_kind(v, _REAL, optional=False) for v in value)
    number = isinstance(value, Real) and not isinstance(value, bool) and value == value  # NaN differs from itself
    return number and (kind == _REAL or isinstance(value, int))


def _check_supported(key: str, value: object, source: str) -> None:
    accepted = _SUPPORTED.get(key)
    if value is None and _READ_KEYS.get(key) == _BOOL:
        value = False
    if accepted is not None and value not in accepted:
        raise BundleError(
            "the scheduler config asks for something that a sampler table cannot express",
            found=f"{key}={value!r}{source}",
            hint=f"{key} may be " + " or ".join(repr(a) for a in accepted) + f"; {_EDIT_HINT}",
        )


def _refuse(what: str, key: str, value: object) -> None:
    raise BundleError(what, found=f"{key}={value!r}", hint=_EDIT_HINT)
