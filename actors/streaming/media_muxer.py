"""Blocks of pictures and sound to one continuous fragmented MP4 (H.264 and AAC).

Every timestamp comes from a counter of frames or samples, so that no block shifts the next. The
bytes of a block are whole as soon as it is encoded (block_encoders.py): an initialisation segment
first, then one fragment (moof, mdat) per block.

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
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from actors.streaming.block_encoders import (
    AAC_FRAME,
    AUDIO_OPTIONS,
    VIDEO_OPTIONS,
    BlockEncoders,
    EncodedBlock,
    EncodedPacket,
    picture,
    sound,
    use_audio_settings,
    use_video_settings,
)
from infra.errors import MediaError
from omniforcing_model.latent_clock import VIDEO_FPS

# AAC needs one frame before the first sample; the edit list in the header hides it.
AAC_PRIMING_SAMPLES = AAC_FRAME
# Any rate that AAC takes.
WARM_UP_HZ = 48_000
FRAGMENTED = "empty_moov+default_base_moof+frag_custom"


class MediaMuxer:
    """The muxer of one stream, with encoders for blocks that are not encoded yet."""

    def __init__(self, height: int, width: int, sample_rate: int, comment: str = "") -> None:
        """Open a pair of encoders, as the one that every block has.

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
        self._encoders = BlockEncoders(self._size, sample_rate)
        try:
            self.init_segment = self._header(comment)
            self._template = self._open_encoders(io.BytesIO(), FRAGMENTED)
            self._template.start_encoding()
        except av.error.FFmpegError as error:
            raise MediaError(
                f"expected H.264 at {height} x {width} px and AAC at {sample_rate} Hz to open,"
                f" got: {error}; choose another size or rate"
            ) from error
        self._video = self._template.streams.video[0]
        self._audio = self._template.streams.audio[0]

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
        """Encode a block here (`BlockEncoders.encode`) and return its fragment.

        Raises:
            MediaError: the block has another shape than the stream.
        """
        return self.write_packets(self._encoders.encode(frames, waveform))

    def write_packets(self, block: EncodedBlock) -> bytes:
        """The fragment of a block that is encoded; empty if nothing is whole yet."""
        fragment = self._fragment(block)
        self._frames += block.frames
        self._samples += block.samples
        return fragment

    def finish(self) -> bytes:
        """What is left of blocks that were encoded here; nothing can be written after it."""
        return self.write_packets(self._encoders.encode(None, None, final=True))

    def _fragment(self, block: EncodedBlock) -> bytes:
        if not block.video and not block.audio:
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
            for packet in block.video:
                container.mux_one(_to_mux(packet, video, self._frames, VIDEO_FPS))
            for packet in block.audio:
                container.mux_one(_to_mux(packet, audio, AAC_PRIMING_SAMPLES, self._sample_rate))
        return b"".join(_boxes(buffer.getvalue(), (b"moof", b"mdat")))

    def _open_encoders(self, target: io.BytesIO, flags: str) -> OutputContainer:
        container = av.open(target, "w", format="mp4", options={"movflags": flags})
        rate = self._sample_rate
        video = container.add_stream("libx264", rate=VIDEO_FPS, options=VIDEO_OPTIONS)
        use_video_settings(video.codec_context, self._size)
        audio = container.add_stream("aac", rate=rate, options=AUDIO_OPTIONS, layout="stereo")
        use_audio_settings(audio.codec_context, rate)
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
                *video.encode(picture(VideoReformatter(), black, 0)),
                *audio.encode(sound(silence, self._sample_rate, 0)),
                *video.encode(None),
                *audio.encode(None),
            ]
            container.mux(packets)
        return b"".join(_boxes(buffer.getvalue(), (b"ftyp", b"moov")))


def warm_up_muxer(height: int, width: int) -> None:
    """Encode a moment of nothing: the libraries are loaded, and the next muxer begins sooner."""
    muxer = MediaMuxer(height, width, WARM_UP_HZ)
    silence = np.zeros((2, WARM_UP_HZ // VIDEO_FPS), np.float32)
    muxer.write_block(np.zeros((1, height, width, 3), np.uint8), silence)
    muxer.finish()


def _to_mux(packet: EncodedPacket, stream: Any, first: int, rate: int) -> "Packet[Any]":
    """A packet whose clock begins at `first` on the stream's own, of `rate` ticks a second."""
    data: Packet[Any] = Packet(packet.data)
    data.stream = stream
    data.time_base = Fraction(1, rate)
    data.pts = data.dts = first + packet.pts
    data.duration = packet.duration
    data.is_keyframe = packet.is_keyframe
    return data


def _boxes(data: bytes, kinds: tuple[bytes, ...]) -> Iterable[bytes]:
    """Top-level boxes of these kinds, in their order."""
    start = 0
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        if kind in kinds:
            yield data[start : start + size]
        start += size
