"""Numbered clips in the containers, codecs and rates, with the offsets and gaps, that one meets."""

from dataclasses import dataclass, replace

from tests.worlds.media.numbered import Numbered, shown_by, write_numbered
from tests.worlds.media.surgery import beginning_later, without_sound_packets

_FRAGMENTS = "frag_keyframe+empty_moov"
NO_EDITS = ("-movflags", _FRAGMENTS, "-use_editlist", "0")
_EDITS = ("-movflags", f"{_FRAGMENTS}+delay_moov")
_NEGATIVE = ("-movflags", f"{_FRAGMENTS}+negative_cts_offsets", "-use_editlist", "0")
# Two pictures and then a pause, and so on.
_UNEVEN = "(N+0.4*mod(N\\,2))*12000/24"
# Seconds after which the clock of MPEG-TS begins again.
_CLOCK_S = 2**33 / 90_000


@dataclass(frozen=True)
class Kind:
    """A numbered clip, the packets of sound it lacks, and the pictures that its edit list cuts."""

    making: Numbered
    lost: range = range(0)
    cut: int = 0

    @property
    def name(self):
        return self.making.name

    def write(self, folder):
        """Write the clip below `folder`; what is shown of it."""
        path = write_numbered(folder, self.making)
        if self.lost:
            whole = path.rename(folder / f"whole {path.name}")
            options = {"movflags": _FRAGMENTS} if "fragments" in path.name else {}
            without_sound_packets(whole, path, self.lost, **options)
            whole.unlink()
        shown = shown_by(path, self.making, self.lost)
        if self.cut:
            beginning_later(path, self.cut / 24, scales=(12_288, self.making.sample_rate))
            shown = shown.without_first(self.cut)
        return shown


_MIXED = [
    Numbered("h264 aac.mp4"),
    Numbered("h264 aac.mkv"),
    Numbered("vp8 vorbis 30.webm", "libvpx", "libvorbis", "30"),
    Numbered("vp9 opus 25.webm", "libvpx-vp9", "libopus", "25"),
    Numbered("h264 aac.ts"),
    Numbered("hevc mp3 25.ts", "libx265", "libmp3lame", "25"),
    Numbered("mpeg4 mp3 25.avi", "mpeg4", "libmp3lame", "25", options=("-bf", "0")),
    Numbered("mjpeg pcm.avi", "mjpeg", "pcm_s16le"),
    Numbered("h264 pcm 30.mov", audio="pcm_s16le", rate="30"),
    Numbered("mjpeg aac 23976.mov", "mjpeg", rate="24000/1001"),
    Numbered("fragments without edits.mp4", options=NO_EDITS),
    Numbered("fragments with edits.mp4", options=_EDITS),
    Numbered("fragments negative 30.mp4", rate="30", options=_NEGATIVE),
    Numbered("hevc flac 60.mkv", "libx265", "flac", "60"),
    Numbered("hevc opus 50.mp4", "libx265", "libopus", "50"),
    Numbered("mpeg4 mp3 2997.mkv", "mpeg4", "libmp3lame", "30000/1001"),
    Numbered("aac 44100 60.mp4", rate="60", sample_rate=44_100),
    Numbered("mono 16000.mp4", sample_rate=16_000, channels=1),
    Numbered("surround 50.mkv", rate="50", channels=6),
    Numbered("vp9 opus.mkv", "libvpx-vp9", "libopus"),
    Numbered("ffv1 pcm 25.mkv", "ffv1", "pcm_s16le", "25"),
]
_OFFSET = [
    Numbered("sound late.mp4", sound_late_s=0.3),
    Numbered("picture late.mp4", sound_late_s=-0.3),
    Numbered("picture late.mkv", sound_late_s=-0.3, audio="libopus"),
    Numbered("sound late.mkv", sound_late_s=0.08, rate="30"),
    Numbered("sound late.ts", sound_late_s=0.3, audio="libmp3lame"),
    Numbered("picture late 25.ts", sound_late_s=-0.2, rate="25"),
    Numbered("sound late.webm", "libvpx-vp9", "libopus", sound_late_s=0.12),
    Numbered("sound late fragments.mp4", sound_late_s=0.2, options=NO_EDITS),
    Numbered("picture late fragments.mp4", sound_late_s=-0.2, options=NO_EDITS),
    Numbered("all late.mp4", options=("-output_ts_offset", "1.4")),
    Numbered("all late.mkv", options=("-output_ts_offset", "2.5")),
    Numbered("all late.ts", options=("-output_ts_offset", "700")),
    Numbered("clock begins again.ts", options=("-output_ts_offset", f"{_CLOCK_S - 3:.3f}")),
]
_UNEVENLY = [
    Numbered("uneven.mp4", times=_UNEVEN),
    Numbered("uneven.mkv", audio="libopus", times=_UNEVEN),
]
_AAC, _FROM = Numbered(""), 60
_LACKING = [
    *(
        Kind(replace(_AAC, name=f"fragments lack {n}.mp4"), range(_FROM, _FROM + n))
        for n in (3, 4, 6)
    ),
    *(Kind(replace(_AAC, name=f"lacks {n}.mp4"), range(_FROM, _FROM + n)) for n in (1, 8)),
    *(Kind(replace(_AAC, name=f"lacks {n}.mkv"), range(_FROM, _FROM + n)) for n in (2, 5)),
    Kind(replace(_AAC, name="lacks 7.ts"), range(_FROM, _FROM + 7)),
    Kind(Numbered("lacks 3.webm", "libvpx", "libopus"), range(_FROM, _FROM + 3)),
    Kind(Numbered("lacks 4 mp3.ts", audio="libmp3lame"), range(_FROM, _FROM + 4)),
]
_CUT = [Kind(replace(_AAC, name="cut.mp4", seconds=5.0), cut=12)]
KINDS = [*map(Kind, _MIXED + _OFFSET + _UNEVENLY), *_LACKING, *_CUT]
