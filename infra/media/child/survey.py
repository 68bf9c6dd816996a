"""The job `survey`: headers, then all packets, then the shape of the first picture."""

from collections.abc import Callable
from typing import Any

import av

from infra.media.child.damage import Damage
from infra.media.child.opening import MAX_PIXELS, ClipError, Tracks, open_clip, open_tracks, seconds
from infra.media.child.packets import read_packets
from infra.media.child.pictures import PictureDecoder
from infra.media.child.scaling import shown_aspect

Send = Callable[[str, Any], None]


def survey(request: dict[str, Any], send: Send, damage: Damage) -> None:
    """Send the header, the facts of the packets, and the aspect: as many as `steps` says.

    A header without a length gets that of the packets.
    """
    container, tracks = open_tracks(str(request["path"]))
    facts = header(container, tracks)
    steps = int(request["steps"])
    damage.listen(container.format.name)
    measured: dict[str, Any] = {}
    if not facts["duration_s"]:
        measured = read_packets(container, tracks)
        facts["duration_s"] = measured["video_s"]
        facts["frames"] = facts["frames"] or round(facts["duration_s"] * facts["fps"])
    send("J", facts)
    if steps > 1:
        send("J", measured or read_packets(container, tracks))
    if steps > 2:
        send("J", {"aspect": _aspect(str(request["path"]), tracks.video)})


def header(container: Any, tracks: Tracks) -> dict[str, Any]:
    """What the headers say; ClipError without the size of the pictures."""
    video, audio = tracks
    if not video.width or not video.height:
        raise ClipError(
            f"expected pictures of a known size of at most {MAX_PIXELS} pixels, got none"
            " in {path}; the file is damaged or a bomb, drop it"
        )
    duration_s = _seconds(video, container)
    fps = float(video.average_rate or 0)
    return {
        "container": container.format.name,
        "duration_s": duration_s,
        "fps": fps,
        "width": video.width,
        "height": video.height,
        "frames": video.frames or round(duration_s * fps),
        "video_track": video.index,
        "audio_track": None if audio is None else audio.index,
        "audio_end_s": 0.0 if audio is None else _end_s(audio, video),
        "audio_duration_s": 0.0 if audio is None else _seconds(audio, container),
        "sample_rate": 0 if audio is None else audio.rate or 0,
        "channels": 0 if audio is None else audio.channels,
    }


def _seconds(stream: Any, container: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return seconds(stream.duration, stream)
    return float(container.duration or 0) / av.time_base


def _end_s(audio: Any, video: Any) -> float:
    """When a track's own header says that its sound ends, after the first picture; 0 if it does
    not tell: the length of a file is that of its longest track."""
    if not audio.duration:
        return 0.0
    lag_s = seconds(audio.start_time, audio) - seconds(video.start_time, video)
    return lag_s + seconds(audio.duration, audio)


def _aspect(path: str, video: Any) -> float:
    stream = open_clip(path).streams[video.index]
    decoder = PictureDecoder(stream, False, Damage([]))
    for picture in decoder.pictures(stream.container.demux(stream)):
        return shown_aspect(picture.frame, stream)
    raise ClipError("expected a picture in {path}, got none; the file is damaged, drop it")
