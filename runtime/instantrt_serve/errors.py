"""Every way in which a request can fail: its code, its HTTP status, and the one shape in which clients are told."""

from __future__ import annotations

from typing import Any, NamedTuple

from instantrt.errors import InstantRTError
from instantrt_serve.messages import Failed


class Problem(NamedTuple):
    """What a code means over HTTP.

    Args:
        status: HTTP status.
        about: one line for people, shown in the documentation.
        retryable: the same request may succeed later; nothing was charged.
    """

    status: int
    about: str
    retryable: bool = False


PROBLEMS: dict[str, Problem] = {
    "unauthorized": Problem(401, "no key, an unknown one, or a revoked one"),
    "not_found": Problem(404, "no such address, or no such job of this key"),
    "method": Problem(405, "the address does not take this method"),
    "credits": Problem(406, "the key has fewer credits than the request costs"),
    "slow_body": Problem(408, "the body did not arrive in time", retryable=True),
    "idempotency": Problem(409, "the Idempotency-Key was used for another request"),
    "too_large": Problem(413, "the body, or a photo fetched by address, is too large"),
    "photo": Problem(415, "a photo cannot be read: format, damage, too many or too few pixels"),
    "media_type": Problem(415, "the body is neither JSON nor a form"),
    "request": Problem(422, "a field is missing, unknown, of the wrong type or out of range"),
    "no_face": Problem(422, "the photo can be read, and nobody's face was found in it"),
    "fetch": Problem(422, "a photo's address is not allowed, or nothing usable is there"),
    "headers": Problem(431, "the address and the headers are too large"),
    "queue_full": Problem(429, "as many requests wait as the server takes", retryable=True),
    "busy": Problem(429, "as many bodies are being received as the server takes", retryable=True),
    "internal": Problem(500, "processing failed; the request id finds it in the server's log"),
    "starting": Problem(503, "the networks are being loaded", retryable=True),
    "stopping": Problem(503, "the server is about to stop", retryable=True),
    "worker_lost": Problem(503, "the worker ended while the request was in work", retryable=True),
    "deadline": Problem(503, "the picture was not ready in time", retryable=True),
    "cancelled": Problem(503, "the request was stopped", retryable=True),
    "storage": Problem(503, "the server cannot write its records", retryable=True),
}

RETRY_AFTER_S = 2  # where nothing better is known


class ApiError(InstantRTError):
    """A request that gets no picture.

    Args:
        code: one of :data:`PROBLEMS`.
        what: the mistake, as one sentence without a full stop.
        found: what was there instead of what was needed.
        hint: what the client can do about it.
        field: of the body, if it is about one.
        retry_after_s: when to try again, in whole seconds.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        found: str | None = None,
        hint: str | None = None,
        field: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(what, found=found, hint=hint)
        self.code, self.field = code, field
        default = RETRY_AFTER_S if PROBLEMS[code].retryable else None
        self.retry_after_s = default if retry_after_s is None else retry_after_s

    @property
    def status(self) -> int:
        """HTTP status."""
        return PROBLEMS[self.code].status

    def to_json(self, request_id: str) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "error": {
                "code": self.code,
                "message": self.what,
                "found": self.found,
                "hint": self.hint,
                "field": self.field,
                "request_id": request_id,
            }
        }


def internal_error() -> ApiError:
    """A bug of ours, or a broken device or bundle: said without any detail, which is in the log."""
    return ApiError("internal", "processing failed", hint="try again; if it stays, tell the operator the request id")


def api_error(error: InstantRTError | Failed) -> ApiError:
    """``error``, of this process or of the worker, as a client may see it: texts about the server are kept back."""
    if isinstance(error, ApiError):
        return error
    if error.code not in PROBLEMS or PROBLEMS[error.code].status == 500:
        return internal_error()
    return ApiError(error.code, error.what, found=error.found, hint=error.hint)


def error_of_status(status: int) -> ApiError:
    """What the router refuses.

    Args:
        status: 404 or 405; others are bugs of ours.
    """
    if status == 404:
        return ApiError("not_found", "there is nothing at this address", hint="see /openapi.json for what there is")
    if status == 405:
        return ApiError("method", "the address does not take this method", hint="see the answer's Allow header")
    return internal_error()
