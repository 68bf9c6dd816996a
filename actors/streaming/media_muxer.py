"""Blocks of pictures and sound to one continuous fragmented MP4 (H.264 and AAC).

One encoder pair lives as long as the stream, and every timestamp comes from a counter of frames or
samples, so that no block shifts the next. The bytes of a block are whole as soon as it is encoded:
an initialisation segment first, then one fragment (moof, mdat) per block.

FFmpeg's MP4 muxer ends a fragment only when the next one begins. Therefore every fragment gets a
muxer of its own, whose options (`frag_discont`, `fragment_index`) say that it continues a stream.
"""

import io
import struct
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
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
# AAC needs one frame before the first sample; the edit list in the header hides it.
AAC_PRIMING_SAMPLES = 1024
# Any rate that AAC takes.
WARM_UP_HZ = 48_000
BT601 = 6
LIMITED_RANGE = 1
FRAGMENTED = "empty_moov+default_base_moof+frag_custom"


class MediaMuxer:
    """The encoder pair and the muxer of one stream."""

    def __init__(self, height: int, width: int, sample_rate: int, comment: str = "") -> None:
        """Open the encoders.

        Args:
            height: of the frames in pixels; even, like the width (4:2:0 colour).
            width: see height.
            sample_rate: samples a second of the stereo waveform.
            comment: goes into the header, for instance the digest of the model.

        Raises:
            MediaError: an odd size, or one or a rate that the encoders do not take.
        """
        if height % 2 or width % 2:
            raise MediaError(
                f"expected an even height and width, got {height} x {width};"
                " choose a multiple of 2 px"
            )
        self._size = (height, width)
        self._sample_rate = sample_rate
        self._frames = 0
        self._samples = 0
        self._fragments = 0
        # One for all frames: each builds its tables, which takes longer than a small picture.
        self._colours = VideoReformatter()
        try:
            self.init_segment = self._header(comment)
            self._encoders = self._open_encoders(io.BytesIO(), FRAGMENTED)
            self._encoders.start_encoding()
        except av.error.FFmpegError as error:
            raise MediaError(
                f"expected H.264 at {height} x {width} px and AAC at {sample_rate} Hz to open,"
                f" got: {error}; choose another size or rate"
            ) from error
        self._video = self._encoders.streams.video[0]
        self._audio = self._encoders.streams.audio[0]

    @property
    def content_type(self) -> str:
        """MIME type with the exact codecs, as Media Source Extensions want it."""
        # An H.264 sequence parameter set begins with profile, constraints and level.
        extradata = self._video.codec_context.extradata or b""
        start = extradata.index(b"\x00\x00\x01") + 4
        return f'video/mp4; codecs="avc1.{extradata[start : start + 3].hex()}, mp4a.40.2"'

    @property
    def video_seconds(self) -> float:
        """Seconds of picture taken in so far."""
        return self._frames / VIDEO_FPS

    @property
    def audio_seconds(self) -> float:
        """Seconds of sound taken in so far."""
        return self._samples / self._sample_rate

    def write_block(
        self, frames: NDArray[np.uint8] | None, waveform: NDArray[np.float32] | None
    ) -> bytes:
        """Encode a block and return its fragment; empty if nothing is whole yet.

        All frames of the block are in its fragment. Up to two AAC frames (2048 samples) of sound
        come with the next one: an AAC frame may span two blocks.

        Args:
            frames: (frames, height, width, 3) RGB, uint8; None or none at all for no picture.
            waveform: (2, samples) float32 in [-1, 1]; None or empty for no sound.

        Raises:
            MediaError: the block has another shape than the stream.
        """
        return self._fragment([*self._encode_video(frames), *self._encode_audio(waveform)])

    def finish(self) -> bytes:
        """Flush the encoders and return the last fragment; nothing can be written after it."""
        last = [*self._video.encode(None), *self._audio.encode(None)]
        return self._fragment(last)

    def _encode_video(self, frames: NDArray[np.uint8] | None) -> "Iterable[Packet[Any]]":
        if frames is None:
            return
        if frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            raise MediaError(
                f"expected frames (n, {self._size[0]}, {self._size[1]}, 3), got {frames.shape};"
                " a stream keeps its size"
            )
        for number, pixels in enumerate(frames):
            frame = _picture(self._colours, np.ascontiguousarray(pixels), self._frames)
            # A reader that joins, or an event that changes the prompt, starts at a block.
            frame.pict_type = PictureType.I if number == 0 else PictureType.NONE
            self._frames += 1
            yield from self._video.encode(frame)

    def _encode_audio(self, waveform: NDArray[np.float32] | None) -> "Iterable[Packet[Any]]":
        if waveform is None or not waveform.size:
            return
        if waveform.ndim != 2 or waveform.shape[0] != 2:
            raise MediaError(
                f"expected a stereo waveform (2, samples), got {waveform.shape};"
                " repeat a mono channel"
            )
        frame = _sound(waveform, self._sample_rate, self._samples)
        self._samples += waveform.shape[1]
        yield from self._audio.encode(frame)

    def _fragment(self, packets: "list[Packet[Any]]") -> bytes:
        if not packets:
            return b""
        self._fragments += 1
        buffer = io.BytesIO()
        options = {
            "movflags": f"{FRAGMENTED}+frag_discont+skip_trailer",
            "fragment_index": str(self._fragments),
            "avoid_negative_ts": "disabled",  # else the fragment would start at 0 again
        }
        with av.open(buffer, "w", format="mp4", options=options) as container:
            video = container.add_stream_from_template(self._video)
            audio = container.add_stream_from_template(self._audio)
            for packet in packets:
                is_video = packet.stream.type == "video"
                packet.stream = video if is_video else audio
                if not is_video and packet.pts is not None:
                    packet.pts = packet.dts = packet.pts + AAC_PRIMING_SAMPLES
                container.mux_one(packet)
        return b"".join(_boxes(buffer.getvalue(), (b"moof", b"mdat")))

    def _open_encoders(self, target: io.BytesIO, flags: str) -> OutputContainer:
        container = av.open(target, "w", format="mp4", options={"movflags": flags})
        video = container.add_stream("libx264", rate=VIDEO_FPS, options=VIDEO_OPTIONS)
        video.height, video.width = self._size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, VIDEO_FPS)
        video.codec_context.colorspace = BT601
        video.codec_context.color_range = LIMITED_RANGE
        rate = self._sample_rate
        audio = container.add_stream("aac", rate=rate, options=AUDIO_OPTIONS, layout="stereo")
        audio.bit_rate = min(AUDIO_BITRATE, BITS_PER_SAMPLE * rate)
        return container

    def _header(self, comment: str) -> bytes:
        """ftyp and moov, before anything of the stream is known.

        The edit list that hides the priming is written once the muxer has taken packets, so a pair
        of encoders with the same settings makes some: one black frame and a moment of silence.
        """
        buffer = io.BytesIO()
        with self._open_encoders(buffer, f"{FRAGMENTED}+delay_moov") as container:
            container.metadata["comment"] = comment
            video, audio = container.streams.video[0], container.streams.audio[0]
            black = np.zeros((*self._size, 3), np.uint8)
            silence = np.zeros((2, 2 * AAC_PRIMING_SAMPLES), np.float32)
            packets = [
                *video.encode(_picture(self._colours, black, 0)),
                *audio.encode(_sound(silence, self._sample_rate, 0)),
                *video.encode(None),
                *audio.encode(None),
            ]
            container.mux(packets)
        return b"".join(_boxes(buffer.getvalue(), (b"ftyp", b"moov")))


def warm_up_encoders(height: int, width: int) -> None:
    """Encode a moment of nothing: the libraries are loaded, and the next muxer begins sooner."""
    muxer = MediaMuxer(height, width, WARM_UP_HZ)
    silence = np.zeros((2, WARM_UP_HZ // VIDEO_FPS), np.float32)
    muxer.write_block(np.zeros((1, height, width, 3), np.uint8), silence)
    muxer.finish()


def _picture(colours: VideoReformatter, pixels: NDArray[np.uint8], number: int) -> av.VideoFrame:
    frame = colours.reformat(
        av.VideoFrame.from_ndarray(pixels, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
    )
    frame.pts = number
    frame.time_base = Fraction(1, VIDEO_FPS)
    return frame


def _sound(waveform: NDArray[np.float32], sample_rate: int, first_sample: int) -> av.AudioFrame:
    samples = np.ascontiguousarray(waveform, dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate = sample_rate
    frame.pts = first_sample
    frame.time_base = Fraction(1, sample_rate)
    return frame


def _boxes(data: bytes, kinds: tuple[bytes, ...]) -> Iterable[bytes]:
    """Top-level boxes of these kinds, in their order."""
    start = 0
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        if kind in kinds:
            yield data[start : start + size]
        start += size
