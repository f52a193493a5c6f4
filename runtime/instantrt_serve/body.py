"""Bodies: received within limits of size and time, and read as JSON or as a form with photos. No disk is touched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from instantrt.plain import shown
from instantrt_serve.beside import beside
from instantrt_serve.config import ServeConfig
from instantrt_serve.errors import ApiError
from instantrt_serve.photos import Photos
from instantrt_serve.schema import TEXT_FIELDS, PictureRequest, request_error

Form = TypeVar("Form", bound=PictureRequest)

PHOTO_FIELDS = ("face_image", "pose_image")
UPLOADED = "uploaded"
MAX_FORM_FIELDS = 40


@dataclass(frozen=True)
class Received(Generic[Form]):
    """A body that was understood.

    Args:
        form: its fields.
        face: the photo's file.
        pose: the pose photo's file.
    """

    form: Form
    face: bytes
    pose: bytes | None


class BodyReader:
    """Reads the bodies of one server's requests.

    Args:
        config: limits.
        photos: makes files of what a photo was sent as.
    """

    def __init__(self, config: ServeConfig, photos: Photos) -> None:
        self._config, self._photos = config, photos
        self._places = asyncio.Semaphore(config.max_uploads)

    async def read(self, request: Request, model: type[Form]) -> Received[Form]:
        """The body's fields and photos.

        Raises:
            ApiError: too large, too slow, of another type, or with fields that do not fit.
        """
        async with self._place(), self._in_time():
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":
                body = b"".join([piece async for piece in self._pieces(request)])
                form, files = await beside(len(body), _validated_json, model, body), dict[str, bytes]()
            elif kind == "multipart/form-data":
                form, files = await self._read_form(request, model)
            else:
                hint = "send application/json or multipart/form-data"
                raise ApiError("media_type", "the body's type is not known", found=shown(kind), hint=hint)
        face = files.get("face_image") or await self._photos.file_of("face_image", form.face_image)
        pose = files.get("pose_image")
        if pose is None and form.pose_image is not None:
            pose = await self._photos.file_of("pose_image", form.pose_image)
        return Received(form, face, pose)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Memory for bodies is bounded: so many at once, of so many bytes each; the others wait unread."""
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            found, hint = f"{self._config.max_uploads} at once", "try again shortly"
            raise ApiError("busy", "too many bodies are being received", found=found, hint=hint) from None
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        limit_s = self._config.body_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            hint = "send a smaller photo: longer sides than 1280 pixels are not used"
            raise ApiError("slow_body", f"the body took more than {limit_s:g} s", hint=hint) from None
        except ClientDisconnect:
            raise ApiError("cancelled", "the client went away", hint="send the whole body") from None

    async def _pieces(self, request: Request) -> AsyncGenerator[bytes]:
        """The body as it comes.

        Raises:
            ApiError: it is too large, by its header or when it comes.
        """
        limit = self._config.max_body_bytes
        said = request.headers.get("content-length", "")
        size = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0
        hint = f"at most {limit:,} bytes; longer sides than 1280 pixels are not used"
        if size > limit:
            raise ApiError("too_large", "the body is too large", found=f"{size:,} bytes", hint=hint)
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise ApiError("too_large", "the body is too large", found=f"more than {limit:,} bytes", hint=hint)
            yield piece

    async def _read_form(self, request: Request, model: type[Form]) -> tuple[Form, dict[str, bytes]]:
        limit = self._config.max_body_bytes
        parser = MultiPartParser(
            request.headers, self._pieces(request), max_files=2, max_fields=MAX_FORM_FIELDS, max_part_size=limit
        )
        parser.spool_max_size = limit + 1  # larger ones would be written to a temporary file
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as error:  # a boundary that is missing or not ASCII
            hint = "send multipart/form-data as RFC 7578 has it"
            raise ApiError("request", "the form cannot be read", found=type(error).__name__, hint=hint) from None
        try:
            texts, files = await _parts(form)
        finally:
            await form.close()
        return _validated_form(model, texts, files), files


async def _parts(form: FormData) -> tuple[dict[str, str], dict[str, bytes]]:
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if name in texts or name in files:
            raise ApiError("request", f"{shown(name)} is there twice", hint="send each field once", field=name)
        if isinstance(value, UploadFile):
            files[name] = await _uploaded_photo(name, value)
        else:
            texts[name] = value
    return texts, files


async def _uploaded_photo(name: str, upload: UploadFile) -> bytes:
    if name not in PHOTO_FIELDS:
        hint = f"files are: {', '.join(PHOTO_FIELDS)}"
        raise ApiError("request", f"{shown(name)} cannot be a file", hint=hint, field=name)
    data = await upload.read()
    if not data:
        raise ApiError("photo", f"{name} is empty", found="0 bytes", hint="send an image file", field=name)
    return data


def _validated_json(model: type[Form], body: bytes) -> Form:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise request_error(error) from None


def _validated_form(model: type[Form], texts: Mapping[str, str], files: Mapping[str, bytes]) -> Form:
    values = {name: text if name in TEXT_FIELDS else _plain(text) for name, text in texts.items()}
    try:
        return model.model_validate(values | dict.fromkeys(files, UPLOADED))
    except ValidationError as error:
        raise request_error(error) from None


def _plain(text: str) -> object:
    """What JSON makes of a short text; the text itself otherwise, which no such field takes."""
    try:
        value: object = json.loads(text) if len(text) < 50 else text
    except ValueError:
        return text
    return text if isinstance(value, str) else value
