"""Small clips for a page: windows of source files, and latents decoded. None of them raises.

Source files are untrusted: infra/media/files.py reads them, and what is shown of one that cannot be
read is a sentence.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from actors.latents.codec_loading import load_audio_codec, load_video_codec, own_device
from infra.config import CodecConfig, DataConfig
from infra.errors import MediaError
from infra.media.files import iterate_frames, probe, read_waveform, write_clip
from infra.media.limits import one_line
from infra.storage.object_store import ObjectStore
from omniforcing_model.codecs.pixels import to_pixels
from omniforcing_model.latent_clock import VIDEO_FPS

SHOWN_S = 3
SOURCE_SAMPLE_RATE = 48_000
# Of the longer side: the first that makes a file small enough is taken.
SIDES_PX = (320, 224, 160)
LARGEST_CLIP_BYTES = 400_000
TIMEOUT_S = 10.0
IN_AN_ARCHIVE = ".tar/"
_STEREO = 2
_MB = 1_000_000
_WHITE = 255.0


class ShownClip(NamedTuple):
    """A clip as an MP4 file, None where there is nothing to see; `note` says what is missing."""

    mp4: bytes | None
    note: str = ""


class Signal(NamedTuple):
    """frames: (frames, height, width, 3) uint8; waveform: (channels, samples) in [-1, 1]."""

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    sample_rate: int
    note: str = ""


def source_clip(
    clips: ObjectStore, name: str, start_s: float, size: int, data: DataConfig
) -> ShownClip:
    """The window from `start_s` on of the clip `name` in `clips`, as far as it decodes.

    size: of the file in bytes; one that the gates refuse for it is not fetched.
    """
    path: Path | None = None
    try:
        if size > data.gates.max_file_mb * _MB:
            return ShownClip(None, "the file is too large to be looked into")
        if not clips.has(name):
            archived = IN_AN_ARCHIVE in name.lower()
            return ShownClip(
                None, "in an archive: not shown" if archived else "there is no such file"
            )
        with clips.local_file(name) as path:
            shown = small_clip(_window(path, start_s, data))
    except MediaError as error:
        shown = ShownClip(None, f"does not decode: {one_line(error)}")
    except OSError as error:
        shown = ShownClip(None, f"cannot be read: {one_line(error)}")
    except Exception as error:  # noqa: BLE001  # a decoder may fail in any way; the page is written
        shown = ShownClip(None, f"does not decode: {type(error).__name__}: {one_line(error)}")
    # Where a copy of it lies for a moment tells nobody anything.
    return shown if path is None else shown._replace(note=shown.note.replace(str(path), name))


class LatentPlayer:
    """Decodes latents with the codecs of a configuration."""

    def __init__(self, codec: CodecConfig) -> None:
        """Load both codecs; ConfigError or CheckpointError if they are not there."""
        self._device = own_device()
        self._video = load_video_codec(codec, self._device)
        self._audio = load_audio_codec(codec, self._device)

    @torch.no_grad()
    def clip(self, video: NDArray[np.float32], audio: NDArray[np.float32]) -> ShownClip:
        """A whole clip decoded at once; its beginning is shown.

        video: latents (latents, channels, height, width); audio: latents (latents, channels).
        """
        pictures = self._video.decode(torch.from_numpy(video).to(self._device)[None])[0]
        sound = self._audio.decode(torch.from_numpy(audio).to(self._device)[None])[0]
        frames = to_pixels(pictures[: SHOWN_S * VIDEO_FPS])
        rate = self._audio.sample_rate
        waveform = sound[:, : SHOWN_S * rate].float().clamp(-1, 1)
        try:
            return small_clip(Signal(frames.cpu().numpy(), waveform.cpu().numpy(), rate))
        except MediaError as error:
            return ShownClip(None, one_line(error))


def small_clip(signal: Signal) -> ShownClip:
    """The signal as MP4, in the largest of `SIDES_PX` whose file is small enough to be embedded.

    MediaError if it cannot be written.
    """
    with TemporaryDirectory(prefix="shown-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        for side in SIDES_PX:
            frames = _scaled(signal.frames, side)
            write_clip(path, frames, signal.waveform, signal.sample_rate, VIDEO_FPS)
            if path.stat().st_size <= LARGEST_CLIP_BYTES:
                return ShownClip(path.read_bytes(), signal.note)
    return ShownClip(None, "too many bytes to be embedded, even when it is small")


def _window(path: Path, start_s: float, data: DataConfig) -> Signal:
    source = probe(path)
    timeout_s, seconds = min(data.decode_timeout_s, TIMEOUT_S), min(data.seconds, SHOWN_S)
    size = _fitting(source.height, source.width, SIDES_PX[0])
    frames, notes = [], []
    try:
        for frame in iterate_frames(path, VIDEO_FPS, size, seconds * VIDEO_FPS, timeout_s, start_s):
            frames.append(frame)
    except MediaError as error:
        if not frames:
            raise
        notes.append(f"the picture breaks off: {one_line(error)}")
    if not frames:
        raise MediaError(f"expected a picture at {start_s:g} s, got none; the file ends before")
    sound = np.zeros((_STEREO, len(frames) * SOURCE_SAMPLE_RATE // VIDEO_FPS), np.float32)
    if not source.has_audio:
        notes.append("it has no sound")
    else:
        try:
            heard = read_waveform(
                path, SOURCE_SAMPLE_RATE, _STEREO, seconds, timeout_s, start_s, may_lack=True
            )
            if heard.size:
                sound = heard
            else:
                notes.append("it has no sound here")
        except MediaError as error:
            notes.append(f"shown without sound: {one_line(error)}")
    return Signal(np.stack(frames), sound, SOURCE_SAMPLE_RATE, "; ".join(notes))


def _fitting(height: int, width: int, side: int) -> tuple[int, int]:
    """The size with the longer side at most `side`, scaled down only, both rounded to even ones."""
    scale = min(1.0, side / max(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def _scaled(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    _, height, width, _ = frames.shape
    size = _fitting(height, width, side)
    if size == (height, width):
        return frames
    pictures: Tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    scaled = interpolate(pictures, size, mode="area").round().clamp(0, _WHITE).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()
