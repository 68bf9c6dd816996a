"""Messages: what is accepted, what is refused, and what they look like as JSON."""

import json

import pytest
from pydantic import ValidationError

from serve.sessions.protocol import (
    LARGEST_SEED,
    BlockEvent,
    BlockRecord,
    ControlRequest,
    EndEvent,
    StreamRequest,
)

RECORD = BlockRecord(
    index=4,
    block_s=0.5,
    generate_s=0.25,
    computed_at=10.0,
    encoded_at=11.0,
    video_s=4.0,
    audio_s=3.5,
    fragment_bytes=900,
)


def request(**fields):
    return StreamRequest.model_validate_json(json.dumps({"prompt": "rain on a roof"} | fields))


def test_a_prompt_is_all_that_is_needed():
    whole = request()
    assert (whole.prompt, whole.seconds, whole.seed) == ("rain on a roof", None, None)


@pytest.mark.parametrize("seed", [0, LARGEST_SEED])
def test_seeds_reach_from_zero_to_the_largest_signed_integer(seed):
    assert LARGEST_SEED == 9_223_372_036_854_775_807
    assert request(seed=seed).seed == seed


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": -1},
        {"seed": LARGEST_SEED + 1},
        {"seed": "7"},
        {"seconds": 2.0},
        {"seconds": "2"},
        {"prompt": None},
        {"prompt": " \n"},
        {"steps": 4},
    ],
)
def test_what_is_not_understood_is_refused(fields):
    with pytest.raises(ValidationError):
        request(**fields)


def test_an_empty_prompt_is_refused_with_what_to_do():
    with pytest.raises(ValidationError, match="got an empty one; say what is seen and heard"):
        request(prompt="")


def test_a_request_cannot_be_changed_once_it_is_checked():
    with pytest.raises(ValidationError):
        request().seconds = 5


def test_a_block_on_the_control_socket_is_flat_json():
    assert json.loads(BlockEvent(block=RECORD).model_dump_json()) == {
        "type": "block",
        "block": {
            "index": 4,
            "block_s": 0.5,
            "generate_s": 0.25,
            "computed_at": 10.0,
            "encoded_at": 11.0,
            "video_s": 4.0,
            "audio_s": 3.5,
            "fragment_bytes": 900,
            "sent_at": None,
        },
    }


def test_the_end_on_the_control_socket_says_how_and_why():
    event = EndEvent(state="stopped", reason="stopped by request")
    assert json.loads(event.model_dump_json()) == {
        "type": "end",
        "state": "stopped",
        "reason": "stopped by request",
    }


def test_stop_is_the_only_command():
    assert ControlRequest.model_validate_json('{"type": "stop"}').type == "stop"
    with pytest.raises(ValidationError):
        ControlRequest.model_validate_json('{"type": "pause"}')
