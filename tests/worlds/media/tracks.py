"""Numbered clips with more tracks than one of a kind, of which one is meant."""

from tests.worlds.media.ffmpeg import run_ffmpeg
from tests.worlds.media.numbered import Numbered, shown_by, write_numbered

_RIGHT = Numbered("right.mkv", seconds=3.0)
_SILENCE = ("-f", "lavfi", "-t", 3, "-i", "anullsrc=r=48000:cl=stereo")
_TALK = ("-f", "lavfi", "-t", 3, "-i", "aevalsrc=0.2*sin(3000*t*t):s=48000")
_STILL = ("-f", "lavfi", "-i", "color=red:s=64x64:r=24:d=0.03")
_COPY = ("-c", "copy")
_AAC = ("-c:v", "copy", "-c:a", "aac")
# By name: further inputs, what is mapped, how it is coded, and what it is said to be.
KINDS = {
    "silence first.mkv": (
        _SILENCE,
        ("-map", "0:v", "-map", "1:a", "-map", "0:a"),
        (*_AAC, "-disposition:a:0", 0, "-disposition:a:1", "default"),
    ),
    "silence first.mp4": (
        _SILENCE,
        ("-map", "0:v", "-map", "1:a", "-map", "0:a"),
        (*_AAC, "-disposition:a:0", 0, "-disposition:a:1", "default"),
    ),
    "commentary first.mkv": (
        _TALK,
        ("-map", "0:v", "-map", "1:a", "-map", "0:a"),
        (*_AAC, "-disposition:a:0", "comment", "-disposition:a:1", 0),
    ),
    "another language last.mkv": (
        _TALK,
        ("-map", "0:v", "-map", "0:a", "-map", "1:a"),
        (*_AAC, "-disposition:a", 0),
    ),
    "still picture first.mkv": (
        _STILL,
        ("-map", "1:v", "-map", "0:v", "-map", "0:a"),
        ("-c:v:0", "mjpeg", "-c:v:1", "copy", "-c:a", "copy", "-disposition:v", 0),
    ),
    "still picture first.mp4": (
        _STILL,
        ("-map", "1:v", "-map", "0:v", "-map", "0:a"),
        ("-c:v:0", "libx264", "-c:v:1", "copy", "-c:a", "copy"),
    ),
    "cover first.mp4": (
        _STILL,
        ("-map", "1:v", "-map", "0:v", "-map", "0:a"),
        ("-c:v:0", "mjpeg", "-c:v:1", "copy", "-c:a", "copy", "-disposition:v:0", "attached_pic"),
    ),
}


def write_tracks(folder, name):
    """Write the clip of this name; what is shown of the tracks that are meant."""
    right = write_numbered(folder, _RIGHT)
    shown = shown_by(right, _RIGHT)
    inputs, tracks, codecs = KINDS[name]
    run_ffmpeg("-i", right, *inputs, *tracks, *codecs, folder / name)
    right.unlink()
    return shown
