"""The answers of the service as pydantic models, from which `/openapi.json` is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Answer(BaseModel):
    """What all answers have in common: no other keys than those that are described."""

    model_config = ConfigDict(extra="forbid")


class LabelScore(Answer):
    """One label of a video."""

    label: str
    score: Annotated[Share, Field(description="probability")]
    threshold: Annotated[float, Field(description="the score from which the label counts as present")]
    present: bool


class Tagged(Answer):
    """The tags of one video: a line of `reeltag tag --json`."""

    video: Annotated[str, Field(description="the last part of the uploaded file's name")]
    labels: Annotated[list[LabelScore], Field(description="best first")]
    modalities: Annotated[list[str], Field(description="what was used: rgb, flow, audio")]
    missing: Annotated[list[str], Field(description="what the model takes and the file has not")]
    duration_s: Annotated[float, Field(ge=0)]
    damaged: Annotated[bool, Field(description="the tags rest on the frames that could be read")]


class Problem(Answer):
    """Why something was not done."""

    reason: Annotated[str, Field(description="a code: of a media file see docs/media.md, of a call docs/serve.md")]
    message: Annotated[str, Field(description="what was found, what is allowed, what to do next")]


class Unreadable(Answer):
    """A video that could not be tagged."""

    video: str
    error: Problem


class Refusal(Answer):
    """A call that was not carried out."""

    error: Problem


class Labels(Answer):
    """The labels that the model knows."""

    labels: Annotated[list[str], Field(description="in the order of their index")]


class Health(Answer):
    """The state of the service."""

    ready: Annotated[bool, Field(description="a first clip went through the model, and the service is not ending")]
    model: Annotated[str, Field(description="name of the run, bundle or ensemble")]
    labels: Annotated[int, Field(description="how many the model knows")]
    modalities: Annotated[list[str], Field(description="tracks of a file that are used where it has them")]
    device: str
    version: Annotated[str, Field(description="of reeltag")]
    workers: Annotated[int, Field(description="videos that are tagged at once")]
    queue: Annotated[int, Field(description="requests that may wait")]
    requests: Annotated[int, Field(description="requests that are received, wait or are tagged now")]
    max_mib: Annotated[int, Field(description="largest upload in MiB, all files of a request together")]
    max_files: Annotated[int, Field(description="most files in a request")]
