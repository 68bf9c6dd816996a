"""Blocks of pictures and sound to packets of H.264 and AAC, each block by encoders of its own.

What a block is encoded to depends on the block and, for sound, on half a second before it. So a
stream that goes on in another process has the same bytes, and nothing of an encoder is kept between
blocks. It costs a little: x264 opens anew, and AAC encodes its preroll again.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from infra.errors import MediaError
from omniforcing_model.latent_clock import VIDEO_FPS

# Constrained baseline without look-ahead: a frame leaves the encoder as it enters, in order.
VIDEO_OPTIONS = {
    "profile": "baseline",
    "preset": "veryfast",
    "tune": "zerolatency",
    "crf": "20",
    "forced-idr": "1",
    "g": "100000",  # keyframes are set by hand: the first frame of every block is one,
    "sc_threshold": "0",  # and no other
    "threads": "1",
}
# Twice to five times as cheap as FFmpeg's default coder, and 1 to 5 dB further from the samples.
AUDIO_OPTIONS = {"aac_coder": "fast"}
AUDIO_BITRATE = 128_000
BITS_PER_SAMPLE = 6  # at most, of both channels: sound of 16 kHz has no use for more
AAC_FRAME = 1024
# Frames before a block that its encoder hears: after them it decides as one that heard them all.
# With 8 the sound at borders is as near to the samples as elsewhere, with 4 up to 7 dB further.
PREROLL = 8
# An encoder holds a packet back until it has heard the frame after the next.
HELD_BACK = 2
BT601 = 6
LIMITED_RANGE = 1
# Parameter sets go into the header of a file, not before each keyframe.
GLOBAL_HEADER = 1 << 22


class EncodedPacket(NamedTuple):
    """One frame as it lies in a file.

    pts: of video in frames since the first of its block, of sound in samples since the first of its
    stream. duration: likewise.
    """

    data: bytes
    pts: int
    duration: int
    is_keyframe: bool


class EncodedBlock(NamedTuple):
    """A block's packets, and how many frames and samples were taken in for it."""

    video: tuple[EncodedPacket, ...] = ()
    audio: tuple[EncodedPacket, ...] = ()
    frames: int = 0
    samples: int = 0


class BlockEncoders:
    """Encodes one stream, of the halves that are held."""

    def __init__(
        self,
        size: tuple[int, int] | None,
        sample_rate: int | None,
        first_block: int = 0,
        first_sample: int = 0,
    ) -> None:
        """Of a stream, or what is left of it.

        Args:
            size: height and width of the frames in pixels, None for no picture.
            sample_rate: samples a second of the stereo waveform, None for no sound.
            first_block: number of the first block that comes.
            first_sample: number of the first sample that comes. Where it is not 0, what comes of
                `context_samples` is not encoded as in the whole stream.
        """
        self._size = size
        self._block = first_block
        self._colours = VideoReformatter()
        self._sound = None if sample_rate is None else _Sound(sample_rate, first_sample)

    def encode(
        self,
        frames: NDArray[np.uint8] | None,
        waveform: NDArray[np.float32] | None,
        final: bool = False,
    ) -> EncodedBlock:
        """Packets of the next block.

        All its frames are in them. Up to three AAC frames of sound come with the next one, or with
        the `final` one: an AAC frame may span two blocks, and an encoder hears ahead.

        Args:
            frames: (frames, height, width, 3) RGB, uint8; None or none at all for no picture.
            waveform: (2, samples) float32 in [-1, 1]; None or empty for no sound.
            final: no block follows.

        Raises:
            MediaError: the block has another shape than the stream.
        """
        video: tuple[EncodedPacket, ...] = ()
        audio: tuple[EncodedPacket, ...] = ()
        if frames is not None and len(frames):
            video = tuple(self._encode_video(frames))
        if self._sound is not None and (waveform is not None or final):
            audio = self._sound.encode(waveform, final)
        self._block += 1
        return EncodedBlock(
            video,
            audio,
            0 if frames is None else len(frames),
            0 if waveform is None else waveform.shape[1],
        )

    def _encode_video(self, frames: NDArray[np.uint8]) -> Iterator[EncodedPacket]:
        if self._size is None or frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            raise MediaError(
                f"expected frames (n, height, width, 3) of {self._size}, got {frames.shape}; a"
                " stream keeps its size"
            )
        encoder = _video_encoder(self._size)
        pictures = [np.ascontiguousarray(pixels) for pixels in frames]
        if self._block % 2:
            # H.264 tells a keyframe from one right before it by a number that begins with 0.
            for _ in encoder.encode(picture(self._colours, pictures[0], -1)):
                pass
        for number, pixels in enumerate(pictures):
            frame = picture(self._colours, pixels, number)
            # A reader that joins, or an event that changes the prompt, starts at a block.
            frame.pict_type = PictureType.I if number == 0 else PictureType.NONE
            for packet in encoder.encode(frame):
                yield _packet(packet, number, 1)


class _Sound:
    """Sound in frames of 1,024 samples, which are counted from the beginning of the stream."""

    def __init__(self, sample_rate: int, first_sample: int) -> None:
        self._rate = sample_rate
        self._kept = np.zeros((2, 0), np.float32)
        self._kept_from = self._taken = first_sample
        self._whole = first_sample // AAC_FRAME  # frames that are complete
        self._is_over = False

    def encode(
        self, waveform: NDArray[np.float32] | None, final: bool
    ) -> tuple[EncodedPacket, ...]:
        """Packets that the samples complete."""
        if waveform is not None and waveform.size:
            if waveform.ndim != 2 or waveform.shape[0] != 2:
                raise MediaError(
                    f"expected a stereo waveform (2, samples), got {waveform.shape};"
                    " repeat a mono channel"
                )
            self._kept = np.concatenate((self._kept, waveform.astype(np.float32)), axis=1)
            self._taken += waveform.shape[1]
        before, self._whole = self._whole, self._taken // AAC_FRAME
        if self._is_over or (self._whole == before and not final):
            return ()
        self._is_over = final
        start = max(before - PREROLL, -(-self._kept_from // AAC_FRAME))
        encoder = _audio_encoder(self._rate)
        packets = list(self._fed(encoder, start * AAC_FRAME, final))
        # Before its first frame, AAC has one of silence.
        first = (before - HELD_BACK) * AAC_FRAME if before else -AAC_FRAME
        self._forget()
        return tuple(packet for packet in packets if packet.pts >= first)

    def _fed(self, encoder: AudioCodecContext, start: int, final: bool) -> Iterator[EncodedPacket]:
        end = self._taken if final else self._whole * AAC_FRAME
        for at in range(start, end, AAC_FRAME):
            first, last = (place - self._kept_from for place in (at, min(at + AAC_FRAME, end)))
            samples = self._kept[:, first:last]
            yield from _sound_packets(encoder.encode(sound(samples, self._rate, at)))
        if final:
            yield from _sound_packets(encoder.encode(None))

    def _forget(self) -> None:
        first = max(self._kept_from, (self._whole - PREROLL) * AAC_FRAME)
        # A copy: a view would keep what is no longer needed.
        self._kept = self._kept[:, first - self._kept_from :].copy()
        self._kept_from = first


def context_samples() -> int:
    """Samples before a block that its sound's packets depend on."""
    return (PREROLL + 1) * AAC_FRAME


def _video_encoder(size: tuple[int, int]) -> VideoCodecContext:
    encoder = VideoCodecContext.create("libx264", "w")
    use_video_settings(encoder, size)
    encoder.framerate = Fraction(VIDEO_FPS)
    encoder.flags |= GLOBAL_HEADER
    encoder.options = VIDEO_OPTIONS
    return encoder


def _audio_encoder(sample_rate: int) -> AudioCodecContext:
    encoder = AudioCodecContext.create("aac", "w")
    use_audio_settings(encoder, sample_rate)
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate, "stereo", "fltp"
    encoder.time_base = Fraction(1, sample_rate)
    encoder.flags |= GLOBAL_HEADER
    encoder.options = AUDIO_OPTIONS
    return encoder


def use_video_settings(encoder: VideoCodecContext, size: tuple[int, int]) -> None:
    """Of all our H.264, for frames of (height, width), beside VIDEO_OPTIONS."""
    encoder.height, encoder.width = size
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, VIDEO_FPS)
    encoder.colorspace, encoder.color_range = BT601, LIMITED_RANGE


def use_audio_settings(encoder: AudioCodecContext, sample_rate: int) -> None:
    """Of all our AAC, beside AUDIO_OPTIONS."""
    encoder.bit_rate = min(AUDIO_BITRATE, BITS_PER_SAMPLE * sample_rate)


def picture(colours: VideoReformatter, pixels: NDArray[np.uint8], number: int) -> av.VideoFrame:
    """A frame for an encoder, of (height, width, 3) RGB."""
    frame = colours.reformat(
        av.VideoFrame.from_ndarray(pixels, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
    )
    frame.pts = number
    frame.time_base = Fraction(1, VIDEO_FPS)
    return frame


def sound(waveform: NDArray[np.float32], sample_rate: int, first_sample: int) -> av.AudioFrame:
    """A frame for an encoder, of (2, samples)."""
    samples = np.ascontiguousarray(waveform, dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate = sample_rate
    frame.pts = first_sample
    frame.time_base = Fraction(1, sample_rate)
    return frame


def _sound_packets(packets: "Iterable[Packet[Any]]") -> Iterator[EncodedPacket]:
    for packet in packets:
        assert packet.pts is not None
        yield _packet(packet, packet.pts, int(packet.duration or AAC_FRAME))


def _packet(packet: "Packet[Any]", pts: int, duration: int) -> EncodedPacket:
    return EncodedPacket(bytes(packet), pts, duration, packet.is_keyframe)
