"""The bodies of requests and responses, as the OpenAPI description shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cora.draw import Colour, class_colours, text_colour

Box = Annotated[
    list[float],
    Field(min_length=4, max_length=4, description="left, top, right, bottom in pixels of the upright image"),
]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_MAX_TOP = 200


class _RequestModel(BaseModel):
    # A misspelt option is an error, since ignoring it would give an answer to another question.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class DetectOptions(_RequestModel):
    """What to look for, and how."""

    classes: list[str] | None = Field(
        None,
        min_length=1,
        description="names to look for; 'mug = cup | coffee cup' is a class with several prompts, reported as mug; "
        "none: the model's own, or else the built-in vocabulary",
    )
    distractors: list[str] | Literal["everyday", "none"] | None = Field(
        None,
        description="names that compete with the classes and are never reported, or 'everyday' for about a hundred "
        "everyday names, or 'none'; left out: the model's own choice",
    )
    score: Share | None = Field(None, description="only detections above it; none: the model's own threshold")
    nms_iou: Share | None = Field(None, description="overlap above which the worse of two boxes of a class is dropped")
    max_detections: int | None = Field(None, ge=1, le=1000, description="boxes kept of an image")
    class_agnostic: bool | None = Field(
        None,
        description="drop a box also for a better one of another class; none: with the built-in vocabulary only",
    )


class DetectRequest(DetectOptions):
    """Images and what to look for in them."""

    images: list[str] = Field(min_length=1, description="image files in base64")


class SearchOptions(_RequestModel):
    """How many results, and of what kind."""

    text: str | None = Field(None, min_length=1, description="what to search for in words")
    box: Box | None = Field(None, description="the region of the image to search for; none: all of it")
    top: int = Field(20, ge=1, le=_MAX_TOP, description="number of results")
    per_picture: int | None = Field(None, ge=1, le=_MAX_TOP, description="results of one image; none: no limit")
    thumbnails: bool = Field(False, description="with small images of the results")


class SearchRequest(SearchOptions):
    """Words or an image to search the index for."""

    image: str | None = Field(None, description="an image file in base64")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        check_search(self, has_image=self.image is not None)
        return self


def check_search(asked: SearchOptions, *, has_image: bool) -> None:
    """Check that there is either a text or an image, and a box only with an image.

    Raises:
        ValueError: there is not; the message is for the client.
    """
    if has_image == (asked.text is not None):
        raise ValueError("expected either text or an image, got " + ("both" if has_image else "neither"))
    if asked.box is not None:
        if not has_image:
            raise ValueError("box: expected an image that it lies in, got none")
        left, top, right, bottom = asked.box
        if not (left < right and top < bottom):
            raise ValueError("box: expected left, top, right, bottom with left < right and top < bottom")


class Found(BaseModel):
    """A detection."""

    name: str
    score: float
    box: Box


class FoundInImage(BaseModel):
    """The detections of an image, best first."""

    width: int
    height: int
    detections: list[Found]


class ClassColour(BaseModel):
    """What a class is drawn with, in images and on the page alike: colours as "#rrggbb"."""

    box: str
    text: str = Field(description="black or white, whichever is easier to read on the colour of the box")

    @classmethod
    def of(cls, names: Iterable[str]) -> dict[str, Self]:
        """Class name -> its colours."""
        return {name: cls(box=_hex(box), text=_hex(text_colour(box))) for name, box in class_colours(names).items()}


class DetectResponse(BaseModel):
    """One entry for every image, in the order sent."""

    images: list[FoundInImage]
    colours: dict[str, ClassColour] = Field(
        description="of each class that was asked for, or without any that was found, by its name"
    )
    score: float = Field(description="only detections above it are here")
    usual_score: float = Field(description="the model's own threshold for these classes")
    classes: int = Field(description="number of names that were looked for")
    built_in: bool = Field(description="whether these are the built-in vocabulary")
    distractors: int = Field(description="number of names that competed with the classes and are not reported")


class Region(BaseModel):
    """A region of the index."""

    file: str = Field(description="path below the indexed folder")
    box: Box
    similarity: float = Field(description="cosine of the region's embedding and the query's")
    score: float = Field(description="of the detection")
    name: str | None = Field(None, description="the class that it was detected as")
    thumbnail: str | None = Field(None, description="JPEG as data URL")


class SearchResponse(BaseModel):
    """Regions, best first."""

    regions: list[Region]


class LimitsInfo(BaseModel):
    """What a request may hold."""

    max_body_bytes: int
    max_pixels: int
    max_images: int
    max_classes: int
    max_name_length: int


class Health(BaseModel):
    """Whether the service answers, and what it offers."""

    status: str
    model: str
    version: str
    score: float = Field(description="the model's own threshold: only detections above it, where a request names none")
    distractors: int = Field(description="number of names that compete with any classes, where a request names none")
    classes: int = Field(description="number of names that are looked for where a request names none")
    built_in: bool = Field(description="whether these are the built-in vocabulary")
    waiting: int = Field(description="images accepted and not answered yet")
    search: bool = Field(description="whether there is an index to search")
    token: bool = Field(description="whether requests need a bearer token")
    limits: LimitsInfo


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    detail: str


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def request_body(
    model: type[BaseModel], options: type[BaseModel], files: dict[str, Any], required: Sequence[str] = ()
) -> dict[str, Any]:
    """The OpenAPI description of a body that may be JSON or a form.

    Args:
        model: the JSON body.
        options: the fields of the form that are no files.
        files: name -> schema of the file fields of the form.
        required: names of the file fields that must be there.
    """
    form = options.model_json_schema()
    form["properties"] = files | form["properties"]
    form["required"] = [*required, *form.get("required", ())]
    content = {"application/json": {"schema": model.model_json_schema()}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
