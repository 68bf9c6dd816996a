"""A ticket opens the media and events of one stream, for a short time."""

import pytest

from serve.endpoint.tickets import TICKET_S, Tickets, owner_of

KEYS = ("first key", "second")
OWNER = owner_of(b"second")
MEDIA = "/v1/streams/abc/media.mp4"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def issued(clock=None):
    query = Tickets(KEYS, clock or Clock()).query("abc", OWNER)
    assert query.startswith("?ticket=")
    return query[1:]


@pytest.mark.parametrize("place", ["media.mp4", "control"])
def test_another_gateway_with_the_same_keys_takes_it(place):
    assert Tickets(KEYS[::-1], Clock()).owner(f"/v1/streams/abc/{place}", issued()) == OWNER


@pytest.mark.parametrize(
    "path",
    [
        "/v1/streams/abd/media.mp4",
        "/v1/streams/abc",
        "/v1/streams/abc/media.mp4/more",
        "/v1/streams",
        "/v1/pairs",
        "/v2/streams/abc/media.mp4",
    ],
)
def test_it_opens_nothing_else(path):
    assert Tickets(KEYS, Clock()).owner(path, issued()) is None


def test_it_holds_for_a_short_time():
    clock = Clock()
    tickets, query = Tickets(KEYS, clock), issued(clock)
    clock.now += TICKET_S
    assert tickets.owner(MEDIA, query) == OWNER
    clock.now += 1
    assert tickets.owner(MEDIA, query) is None
    later = query.replace("1060.", "2060.")
    assert later != query
    assert tickets.owner(MEDIA, later) is None


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ticket=",
        "ticket=1060.",
        "ticket=1060",
        "ticket=x.y",
        "ticket=²60.ab",
        "ticket=" + 5000 * "1",
    ],
)
def test_what_is_no_ticket_opens_nothing(query):
    assert Tickets(KEYS, Clock()).owner(MEDIA, query) is None


def test_a_key_that_is_gone_takes_its_tickets_along():
    assert Tickets(KEYS[:1], Clock()).owner(MEDIA, issued()) is None


def test_without_keys_there_are_none():
    assert Tickets((), Clock()).query("abc", None) == ""
