"""Reads and checks the bodies of requests, JSON or forms, within the limits; opens no path or address in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from cora.errors import ImageError
from cora.names import names_in
from cora.predictor.settings import as_names
from cora.regions.class_names import class_prompts, clean_names, names_alone
from cora.service.limits import Limits
from cora.service.pictures import from_base64
from cora.service.refusal import RefusedError
from cora.service.schemas import DetectOptions, DetectRequest, SearchOptions, SearchRequest, check_search

_NAME_FIELDS = ("classes", "distractors")
#: Values of the field `distractors` that stand for a list, as a form's text is read.
_KEYWORDS = (["everyday"], ["none"])
_Model = TypeVar("_Model", bound=BaseModel)

#: Kind of error -> message in the style of all others, for the most frequent mistakes; the rest have pydantic's.
_MESSAGES = {
    "missing": "expected this field, got none",
    "extra_forbidden": "expected no such field, got one; /openapi.json names those there are",
    "too_short": "expected at least {min_length}, got {actual_length}",
}


async def read_detect(request: Request, limits: Limits) -> tuple[DetectOptions, list[bytes]]:
    """Read a request to `/detect`: its options and image files.

    Raises:
        RefusedError: 400, 413, 415 or 422, the body is not as expected.
        ImageError: an image of a JSON body is not base64.
        VocabularyError: the names are unusable.
    """
    options: DetectOptions
    if in_json := _is_json(request):
        asked = _checked(DetectRequest.model_validate_json, await request.body())
        _check_count(len(asked.images), limits)
        options, images = asked, _decoded(asked.images)
    else:
        fields, images = await _form(request, limits, file_field="images")
        options = _checked(DetectOptions.model_validate, fields)
        if not images:
            raise RefusedError(422, "images: expected at least one file, got none")
    _check_names(options.classes, options.distractors, limits)
    for what, names in (("class names", options.classes), ("distractors", options.distractors)):
        if in_json and isinstance(names, list):  # those of a form were split before
            as_names(what, names)
    return options, images


async def read_search(request: Request, limits: Limits) -> tuple[SearchOptions, bytes | None]:
    """Read a request to `/search`: its options, and the image file if it has one.

    Raises:
        RefusedError: 400, 413, 415 or 422, the body is not as expected.
        ImageError: the image of a JSON body is not base64.
    """
    options: SearchOptions
    if _is_json(request):
        asked = _checked(SearchRequest.model_validate_json, await request.body())
        options, images = asked, [] if asked.image is None else _decoded([asked.image])
    else:
        fields, images = await _form(request, limits, file_field="image")
        if len(images) > 1:
            raise RefusedError(422, f"image: expected one file, got {len(images)}")
        options = _checked(_checked_search(has_image=bool(images)), fields)
    if options.text is not None and len(options.text) > limits.max_name_length:
        raise _too_long("text", options.text, limits.max_name_length)
    return options, images[0] if images else None


def limited(request: Request, limits: Limits) -> Request:
    """The same request, except that reading more than `max_body_bytes` of its body raises.

    Raises:
        RefusedError: 413, its header announces more.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_body_bytes:
        raise _too_large(limits)
    return Request(request.scope, _Limited(request.receive, limits))


class _Limited:
    """Counts the bytes of a body as they arrive, since the header may announce too few or none."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._read = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self._limits.max_body_bytes:
            raise _too_large(self._limits)
        return message


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise RefusedError(
            415, f"expected application/json or multipart/form-data, got {kind[:100] or 'no content type'}"
        )
    return kind == "application/json"


async def _form(request: Request, limits: Limits, *, file_field: str) -> tuple[dict[str, Any], list[bytes]]:
    fields: dict[str, Any] = {}
    images: list[bytes] = []
    try:
        form = await request.form(
            max_files=limits.max_images + 1, max_fields=2 * limits.max_classes + 20, max_part_size=limits.max_body_bytes
        )
    except HTTPException as error:
        # Only the parser's text tells that there are too many parts, which is a limit of ours.
        status = 413 if "Too many" in error.detail else 400
        raise RefusedError(
            status, f"expected a multipart form, got a broken or too large one: {error.detail}"
        ) from None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != file_field:
                    raise RefusedError(422, f"expected files in the field {file_field!r}, got one in {name[:50]!r}")
                images.append(await value.read())
                _check_count(len(images), limits)
            elif name in _NAME_FIELDS:
                fields.setdefault(name, []).extend(_names(name, value, limits))
            elif name == "box":
                fields.setdefault(name, []).extend(value.split(",") if value.strip() else [])
            elif name in fields:
                raise RefusedError(422, f"{name[:50]}: expected it once, got it twice")
            else:
                fields[name] = value
    finally:
        await form.close()
    if fields.get("distractors") in _KEYWORDS:
        (fields["distractors"],) = fields["distractors"]
    return fields, images


def _names(field: str, text: str, limits: Limits) -> list[str]:
    """The names in a field of a form, written as on the command line; text that is too long is not even split."""
    most = limits.max_name_length * limits.max_classes
    if len(text) > most:
        raise _too_long(field, text, most)
    return names_in(text)


def _decoded(images: Sequence[str]) -> list[bytes]:
    decoded = []
    for place, text in enumerate(images, start=1):
        try:
            decoded.append(from_base64(text))
        except ImageError as error:
            raise ImageError(f"image {place}: {error}") from None
    return decoded


def _checked(read: Callable[[Any], _Model], content: Any) -> _Model:
    try:
        return read(content)
    except ValidationError as error:
        messages = []
        for problem in error.errors(include_url=False, include_input=False)[:3]:
            place = ".".join(str(part)[:50] for part in problem["loc"])
            known = _MESSAGES.get(problem["type"])
            words = problem["msg"] if known is None else known.format(**problem.get("ctx", {}))
            if place == "classes" and problem["type"] == "too_short":
                words += "; leave it out for the built-in vocabulary"
            messages.append(f"{place}: {words}" if place else words)
        raise RefusedError(422, "; ".join(messages)) from None


def _checked_search(*, has_image: bool) -> Callable[[Any], SearchOptions]:
    def read(fields: Any) -> SearchOptions:
        options = SearchOptions.model_validate(fields)
        try:
            check_search(options, has_image=has_image)
        except ValueError as error:
            raise RefusedError(422, str(error)) from None
        return options

    return read


def _check_count(images: int, limits: Limits) -> None:
    if images > limits.max_images:
        raise RefusedError(
            413, f"images: expected at most {limits.max_images} in a request, got more; send several requests"
        )


def _check_names(classes: Sequence[str] | None, distractors: Sequence[str] | None, limits: Limits) -> None:
    if isinstance(distractors, str):
        distractors = None  # a keyword for a list of ours
    given = (*(classes or ()), *(distractors or ()))
    _check_name_count(len(given), limits)
    for text in given:
        # A class may have as many prompts as there may be names; text that is longer is not even split.
        most = limits.max_name_length * (limits.max_classes if "=" in text else 1)
        if len(text) > most:
            raise _too_long("classes", text, most)
    asked = class_prompts(classes or ())
    prompts = [prompt for prompts in asked.values() for prompt in prompts]
    _check_name_count(len(prompts) + len(distractors or ()), limits)
    for name in (*asked, *prompts):
        if len(name) > limits.max_name_length:
            raise _too_long("classes", name, limits.max_name_length)
    if classes is not None:
        clean_names(tuple(asked))
    if distractors:
        clean_names(names_alone("distractors", distractors))


def _check_name_count(count: int, limits: Limits) -> None:
    if count > limits.max_classes:
        raise RefusedError(
            413, f"classes: expected at most {limits.max_classes} names, prompts and distractors included, got {count}"
        )


def _too_long(field: str, text: str, most: int) -> RefusedError:
    return RefusedError(413, f"{field}: expected at most {most} characters, got {len(text)}: {text[:20]!r}...")


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(
        413, f"expected a body of at most {limits.max_body_bytes / 2**20:g} MiB, got more; send less at once"
    )
