"""The player's script in a page that has just enough of a browser: what it asks a server for."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYER = ROOT / "serve" / "endpoint" / "player.html"
BROWSER = ROOT / "tests" / "worlds" / "player.js"
CREATED = (
    '{"id": "s", "seed": 5, "model": "m", "content_type": "video/mp4",'
    ' "urls": {"status": "/s", "media": "/s/media.mp4"}}'
)


@pytest.fixture(scope="module")
def node():
    program = shutil.which("node")
    if program is None:
        pytest.skip("no JavaScript outside of a browser: put node on PATH")
    return program


@pytest.fixture
def pressed(node):
    """What came of pressing play in a browser with these values and media sources."""

    def press(sources=("MediaSource",), supported=True, **values):
        scenario = {
            "values": {"prompt": "rain", "seconds": "10"} | values,
            "sources": sources,
            "supported": supported,
            "created": CREATED,
        }
        done = subprocess.run(
            [node, BROWSER, PLAYER],
            input=json.dumps(scenario),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    return press


@pytest.mark.parametrize("seed", [2**63 - 1, 2**53 + 1, 0])
def test_a_typed_seed_is_sent_digit_for_digit(pressed, seed):
    (body,) = pressed(seed=f" {seed}")["posted"]
    assert json.loads(body) == {"prompt": "rain", "seconds": 10, "seed": seed}


def test_without_a_seed_none_is_sent(pressed):
    (body,) = pressed()["posted"]
    assert json.loads(body) == {"prompt": "rain", "seconds": 10}


def test_a_browser_that_cannot_play_opens_no_stream(pressed):
    for sources in ((), ("MediaSource",), ("ManagedMediaSource",)):
        page = pressed(sources, supported=False)
        assert page["posted"] == []
        assert page["message"].startswith("this browser cannot play video/mp4")
        assert page["button"] == "Play"


def test_a_phone_takes_its_managed_source_or_the_file_itself(pressed):
    managed = pressed(("ManagedMediaSource",))
    assert (managed["remote"], managed["source"], len(managed["posted"])) == (True, "blob:", 1)
    plain = pressed(())
    assert (plain["source"], plain["button"]) == ("/s/media.mp4", "Stop")
    assert plain["deleted"] == []


def test_the_status_of_a_stream_is_asked_for_its_new_blocks_alone(pressed):
    asked = [url for url in pressed()["asked"] if url.startswith("/s?")]
    assert asked[:3] == ["/s?first_block=0", "/s?first_block=2", "/s?first_block=4"]
