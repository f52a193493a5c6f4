"""Photos as clients send them to image files as bytes. They are decoded in the worker, away from keys and records."""

from __future__ import annotations

import base64
import binascii
import re

from instantrt.plain import shortened
from instantrt_serve.beside import beside
from instantrt_serve.errors import ApiError
from instantrt_serve.fetch import Fetcher

DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.=+-]+)*;base64,", re.ASCII)
ADDRESS = re.compile(r"https?://", re.IGNORECASE)
MAX_SHOWN = 60
LONGEST_PREFIX = 200


class Photos:
    """Makes files of photos.

    Args:
        fetcher: gets photos by address; None where that is switched off.
    """

    def __init__(self, fetcher: Fetcher | None) -> None:
        self._fetcher = fetcher

    async def file_of(self, field: str, text: str) -> bytes:
        """The file that a field's text stands for.

        Args:
            field: ``face_image`` or ``pose_image``, for messages.
            text: base64, a data URL, or an address.

        Raises:
            ApiError: it is none of them, or nothing can be fetched.
        """
        if not ADDRESS.match(text):
            return await beside(len(text), decode, field, text)
        if self._fetcher is None:
            hint = "send the photo itself, as base64; this server fetches nothing"
            raise ApiError("fetch", "photos by address are switched off", hint=hint, field=field)
        return await self._fetcher.get(field, text)


def decode(field: str, text: str) -> bytes:
    """The bytes of base64 text or of a data URL. White space and missing padding are let pass.

    Raises:
        ApiError: it is neither, or nothing is in it.
    """
    if text.startswith("data:"):
        match = DATA_URL.match(text[:LONGEST_PREFIX])
        if match is None:
            raise _undecodable(field, text, "a data URL has the form data:image/jpeg;base64,...")
        text = text[match.end() :]
    try:
        plain = "".join(text.split()).rstrip("=").encode("ascii")
        data = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _undecodable(field, text, "encode the image file with base64") from None
    if not data:
        raise ApiError("photo", f"{field} is empty", found="0 bytes", hint="send an image file", field=field)
    return data


def _undecodable(field: str, text: str, hint: str) -> ApiError:
    found = shortened(ascii(text[:LONGEST_PREFIX]), MAX_SHOWN)
    return ApiError("photo", f"{field} is not base64", found=found, hint=hint, field=field)
