"""What goes over the wire: requests, replies and events, in JSON."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationInfo
from pydantic import field_validator as validates

from infra.plain_text import text_problem

LARGEST_SEED = 2**63 - 1

StreamState = Literal["starting", "streaming", "done", "stopped", "failed"]
ENDED: frozenset[StreamState] = frozenset(("done", "stopped", "failed"))


class WireModel(BaseModel):
    """Base of every message: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamRequest(WireModel):
    """Body of POST /v1/streams."""

    prompt: Annotated[StrictStr, Field(description="what is seen and heard")]
    seconds: Annotated[
        StrictInt | None,
        Field(default=None, description="length; null streams until stopped, or to the limit"),
    ]
    seed: Annotated[
        StrictInt | None,
        Field(
            default=None,
            ge=0,
            le=LARGEST_SEED,
            description="same prompt, seed and model give the same stream; null draws one",
        ),
    ]

    @validates("prompt")
    @classmethod
    def _is_text(cls, prompt: str, _info: ValidationInfo) -> str:
        if not prompt.strip():
            raise ValueError("expected a prompt, got an empty one; say what is seen and heard")
        problem = text_problem(prompt)
        if problem is not None:
            raise ValueError(f"expected text, got {problem}; leave it out")
        return prompt


class StreamUrls(WireModel):
    """Where a stream is found, as paths on this server.

    With keys, media and control carry a ticket: they hold without a key for a minute.
    """

    status: str
    media: str
    control: str


class StreamCreated(WireModel):
    """Reply to POST /v1/streams."""

    id: str
    seed: int
    seconds: int
    model: str
    content_type: str = Field(description="of the media, with codecs for MediaSource")
    urls: StreamUrls


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """One block on its way: times are Unix seconds, `block_s` is what computing and decoding it
    took, or the wait for it where that was longer.

    A long stream has thousands: these take a quarter of the memory of a message.
    """

    index: int
    block_s: float
    generate_s: Annotated[float, Field(description="the slower half's share without decoding")]
    computed_at: float
    encoded_at: float
    video_s: Annotated[float, Field(description="seconds of picture up to the end of this block")]
    audio_s: float
    fragment_bytes: int
    sent_at: Annotated[float | None, Field(description="when a reader had taken it")] = None


class StreamStatus(WireModel):
    """Reply to GET and DELETE /v1/streams/{id}."""

    id: str
    state: StreamState
    reason: str | None = Field(description="why it ended, where that is not the last block")
    prompt: str
    seconds: int
    seed: int
    model: str
    kernels: str = Field(description="forms of its operations that the machine's processor decides")
    layout: str
    pair: str
    epoch: int
    moves: int = Field(description="times that it lost its pair and went on with another")
    created_at: float
    first_byte_s: float | None = Field(description="request accepted to header at a reader")
    first_chunk_s: float | None = Field(
        description="request accepted to the bytes of the first whole second being ready"
    )
    queued_blocks: int
    blocks: list[BlockRecord] = Field(description="all, or those from `first_block` on")


class ErrorReply(WireModel):
    """Body of every reply that is not a success."""

    error: str


class ControlRequest(WireModel):
    """What a client may say on the control socket."""

    type: Literal["stop"]


class BlockEvent(WireModel):
    """A block was computed and encoded."""

    type: Literal["block"] = "block"
    block: BlockRecord


class EndEvent(WireModel):
    """The stream ended; the socket closes after it."""

    type: Literal["end"] = "end"
    state: StreamState
    reason: str | None


class ErrorEvent(WireModel):
    """A control message was not understood."""

    type: Literal["error"] = "error"
    error: str
