"""The one exception family for users' mistakes. Anything else that escapes is a bug and surfaces as one."""

from __future__ import annotations


class InstantRTError(Exception):
    """Something the user can mend: says what was wrong, what was found and what to do.

    Args:
        what: the mistake, as one sentence without a full stop.
        found: what was there instead of what was needed.
        hint: what the user can do about it.
    """

    code = "error"

    def __init__(self, what: str, *, found: str | None = None, hint: str | None = None) -> None:
        self.what, self.found, self.hint = what, found, hint
        parts = [what]
        if found is not None:
            parts.append(f"Found: {found}")
        if hint is not None:
            parts.append(f"To do: {hint}")
        super().__init__("\n".join(parts))


class RequestError(InstantRTError):
    """A value of a request is out of range, unknown, or does not fit the bundle."""

    code = "request"


class PhotoError(InstantRTError):
    """A photo cannot be read or is unusable."""

    code = "photo"


class NoFaceError(PhotoError):
    """A readable photo in which no face was found."""

    code = "no_face"


class BundleError(InstantRTError):
    """A bundle is incomplete, altered, or made for something else."""

    code = "bundle"


class OutputError(InstantRTError):
    """A file cannot be written."""

    code = "output"


class CheckpointError(InstantRTError):
    """A checkpoint is incomplete, inconsistent, or not what it is said to be."""

    code = "checkpoint"


class EngineError(InstantRTError):
    """A target cannot load or execute a network."""

    code = "engine"


class MissingExtraError(InstantRTError):
    """A part of InstantRT was asked for whose optional packages are not installed."""

    code = "missing_extra"

    def __init__(self, purpose: str, extra: str, found: str) -> None:
        super().__init__(
            f"{purpose} needs packages that are not installed",
            found=found,
            hint=f'pip install "instantrt[{extra}]"',
        )


class WheelError(InstantRTError):
    """Packages of a vendor are installed but do not work together, or are too old."""

    code = "wheels"


class NotFiniteError(EngineError):
    """A network gave values that are no finite numbers, so there is no picture.

    Args:
        network: whose output it is, as far as that can be known.
        where: in which output or network call.
    """

    code = "not_finite"

    def __init__(self, network: str, where: str) -> None:
        option = "--vae-precision" if network == "vae_decoder" else "--precision"
        super().__init__(
            f"{network} gave values that are not finite numbers",
            found=where,
            hint="the weights are damaged, or too large for fp16: check the checkpoint and export it again, "
            f"with `{option} fp32` if it was fp16",
        )
        self.network = network


class DeviceError(InstantRTError):
    """A device is missing, full, or reported a failure.

    Args:
        what: what was being done.
        found: the driver's answer.
        hint: what the user can do about it.
        driver_code: the driver's name for the error, e.g. ``CUDA_ERROR_OUT_OF_MEMORY``; None where no driver answered.
    """

    code = "device"

    def __init__(
        self, what: str, *, found: str | None = None, hint: str | None = None, driver_code: str | None = None
    ) -> None:
        super().__init__(what, found=found, hint=hint)
        self.driver_code = driver_code


class CancelledError(InstantRTError):
    """The caller cancelled the request between two steps."""

    code = "cancelled"


class PipelineError(InstantRTError):
    """A pipeline was called when it cannot be: from its own callbacks, or after it was closed."""

    code = "pipeline"
