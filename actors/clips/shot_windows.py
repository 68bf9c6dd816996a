"""Where the windows of a clip begin: at its start, one after the other, or inside its shots.

A window is `seconds` and one frame long. Its last frame may lie behind the end of the clip, where
the decoder repeats the one before, but not behind a cut.
"""

from pathlib import Path

from infra.config import DataConfig
from infra.media.files import ClipProbe, iterate_frames
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds

_WIDTH = 160
_HEIGHTS = (16, 640)
_BGR = slice(None, None, -1)
# The configured time limit is for the frames of one window; here all frames are decoded, small.
_SECONDS_PER_LIMIT = 60


def window_starts_s(
    path: Path, clip: ClipProbe, video_s: float, data: DataConfig
) -> tuple[float, ...]:
    """Starts of the windows of a clip with `video_s` of pictures: whole frames of 1/24 s.

    MediaError when the clip has to be decoded to find its shots, and cannot be.
    """
    if data.split.kind == "first":
        return (0.0,)
    frames = round(video_s * VIDEO_FPS)
    cuts: list[int] = []
    if data.split.kind == "shots":
        frames, cuts = _find_cuts(path, clip, frames, data)
    starts = windows_between(cuts, frames, data.seconds)
    return tuple(start / VIDEO_FPS for start in starts)


def windows_between(cuts: list[int], frames: int, seconds: int) -> list[int]:
    """First frames of the windows of `seconds` that fit between cuts, in frames at 24 fps.

    cuts: frames that begin a new shot, ascending; frames: of the whole clip.
    """
    step, whole = seconds * VIDEO_FPS, frames_for_seconds(seconds)
    starts: list[int] = []
    for begin, end in zip([0, *cuts], [*cuts, frames], strict=True):
        needed = step if end == frames else whole
        starts += range(begin, end - needed + 1, step)
    return starts


def _find_cuts(
    path: Path, clip: ClipProbe, expected: int, data: DataConfig
) -> tuple[int, list[int]]:
    """Frames of the clip at 24 fps, and those that begin a new shot."""
    # OpenCV comes with it, and takes a third of a second that only this split needs.
    from scenedetect import FrameTimecode  # noqa: PLC0415
    from scenedetect.detectors import ContentDetector  # noqa: PLC0415

    # Every cut counts, however short the shot: hence no least length of a shot.
    detector = ContentDetector(threshold=data.split.shot_threshold, min_scene_len=0)
    height = min(max(round(_WIDTH * clip.height / clip.width / 2) * 2, _HEIGHTS[0]), _HEIGHTS[1])
    timeout_s = data.decode_timeout_s * (1 + expected // (VIDEO_FPS * _SECONDS_PER_LIMIT))
    cuts: list[int] = []
    number = 0
    size = (height, _WIDTH)
    for frame in iterate_frames(path, VIDEO_FPS, size, expected + VIDEO_FPS, timeout_s):
        time = FrameTimecode(number, float(VIDEO_FPS))
        cuts += [int(cut.frame_num) for cut in detector.process_frame(time, frame[..., _BGR])]
        number += 1
    return number, cuts
