"""Untrusted clips: flashes and beeps in every codec, container, size, rate and name, and files
that are broken or mean harm, each with the outcome it must have."""

import struct
import wave
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tests.worlds.media.ffmpeg import run_ffmpeg
from tests.worlds.media.surgery import turned

FLASH_EVERY_S = 1.0
# On a frame at 12, 15, 24, 30 and 60 fps, and near one at the other rates.
FIRST_FLASH_S = 1 / 3
LAGS_MS = (0, 40, -40, 120, -120)
# A measured lag goes in tenths of a frame, and containers round times to milliseconds, twice.
_MEASURED_MS = 1000 / 240 + 2
# A picture is seen up to a frame after it begins; and ffmpeg 5 writes Opus too early, by what its
# decoders skip.
_SEEN_MS, _SKIPPED_MS = 1000 / 24, 6.5
UNREADABLE = ("quarantined", "unreadable")
OK = ("ok", "")


class ZooClip(NamedTuple):
    """A file, the end it must come to, and how late its sound is (None: not to be measured)."""

    name: str
    expected_outcome: str
    expected_reason: str
    lag_ms: float | None = None


@dataclass(frozen=True)
class Making:
    """How a clip of flashes and beeps is made."""

    container: str = "mp4"
    video: str = "libx264"
    audio: str = "aac"
    width: int = 64
    height: int = 64
    rate: str = "24"
    channels: int = 2
    sample_rate: int = 48_000
    seconds: float = 2.0
    lag_ms: float = 0.0
    rotation: int = 0
    start_s: float = 0.0
    flaw: str = ""
    corner: bool = False


_MP3_PADDING = 1105
_FORMATS = {"mkv": "matroska", "ts": "mpegts"}
_CODECS = [
    ("mp4", "libx264", "aac"),
    ("mkv", "libx264", "libopus"),
    ("webm", "libvpx-vp9", "libopus"),
    ("mov", "libx264", "aac"),
    ("avi", "mpeg4", "libmp3lame"),
    ("ts", "libx264", "aac"),
    ("mp4", "libx265", "aac"),
    ("mkv", "libx265", "libmp3lame"),
    ("mp4", "mpeg4", "libmp3lame"),
    ("mov", "mpeg4", "pcm_s16le"),
    ("mkv", "libvpx-vp9", "aac"),
    ("ts", "libx265", "libmp3lame"),
    ("mp4", "libvpx-vp9", "libopus"),
]
_SIZES = [(64, 64), (96, 64), (64, 112), (71, 53), (130, 34), (98, 66)]
_RATES = ["24", "12", "30000/1001", "25", "60", "24000/1001", "30", "15", "50"]
_LAYOUTS = {
    "aac": [2, 1, 6, 8, 3, 4, 5],
    "libopus": [1, 2, 8, 6],
    "libmp3lame": [2, 1],
    "pcm_s16le": [1, 4, 2],
}
_ANY_RATE = [48_000, 44_100, 8_000, 96_000, 22_050, 16_000, 32_000]
_SAMPLE_RATES = {
    "libopus": [48_000, 24_000, 16_000, 12_000, 8_000],
    "libmp3lame": [48_000, 44_100, 32_000, 22_050, 16_000],
}
_NAMES = [
    "clip {n}",
    "-i {n}",
    "взрыв 花火 {n}",
    "a:b{n}",
    "%03d {n}",
    'it\'s "{n}" $(x)',
    "{n}#?&=*",
    "line\nbreak {n}",
]
_FLAWS = {
    "variable": "variable_frame_rate",
    "silent": "silence",
    "clipped": "clipping",
    "frozen": "frozen_picture",
    "mute": "no_audio",
    "short": "too_short",
    "half_mute": "sound_missing",
    "small": "low_resolution",
}
_FLAWED_EVERY = 6
_VIDEO_OPTIONS = {
    "libx264": ["-preset", "veryfast", "-crf", "23", "-g", "30", "-bf", "2"],
    "libx265": ["-preset", "ultrafast", "-x265-params", "log-level=none:pools=1"],
    "libvpx-vp9": ["-deadline", "realtime", "-cpu-used", "8", "-b:v", "300k"],
    "mpeg4": ["-q:v", "4", "-bf", "2"],
}


@lru_cache(maxsize=64)
def _pictures(width, height, rate, seconds, frozen, corner):
    """Raw pictures: a grey field that flashes and fades, on which a bar moves."""
    times = np.arange(round(float(Fraction(rate)) * seconds)) / float(Fraction(rate))
    if frozen:
        times = np.zeros_like(times)
    # 2 ms: at 23.976 fps the flash belongs to the frame just before it.
    age_s = (times - FIRST_FLASH_S + 0.002) % FLASH_EVERY_S
    field = 40 + 180 * np.exp(-age_s / 0.1)
    field[times < FIRST_FLASH_S - 0.002] = 40
    pictures = np.repeat(field, height * width * 3).reshape(len(times), height, width, 3)
    for picture, time in zip(pictures, times, strict=True):
        column = int(time * 20) % width
        picture[:, column : column + 2] = 128
        if corner:
            picture[: height // 3, : width // 3] = 255
    return np.rint(pictures).astype(np.uint8).tobytes()


def is_as_late(ms):
    """Whether sound that is measured so much later than it was made may be as late as it was."""
    return -(_SEEN_MS + _MEASURED_MS + _SKIPPED_MS) <= ms <= _MEASURED_MS


def shown_lag_ms(making):
    """How late the first beep is after the first frame that can show its flash."""
    rate = float(Fraction(making.rate))
    shown_s = np.ceil((FIRST_FLASH_S - 0.002) * rate) / rate
    # AVI cannot say that the first samples of MP3 are to be dropped.
    padding_s = _MP3_PADDING / making.sample_rate if making.container == "avi" else 0.0
    return making.lag_ms + 1000 * (padding_s - shown_s + FIRST_FLASH_S)


def _sound(making):
    seconds = 0.5 if making.flaw == "half_mute" else making.seconds
    times = np.arange(round(making.sample_rate * seconds)) / making.sample_rate
    since = times - FIRST_FLASH_S - making.lag_ms / 1000
    age_s = since % FLASH_EVERY_S
    beeps = 0.4 * np.exp(-age_s / 0.08) * np.sin(2 * np.pi * 880 * age_s) * (since >= 0)
    if making.flaw == "silent":
        beeps *= 0
    if making.flaw == "clipped":
        beeps = np.clip(1e4 * np.sin(2 * np.pi * 440 * times), -1, 1)
    samples = np.rint(32767 * beeps).astype("<i2")
    return np.repeat(samples[:, None], making.channels, axis=1)


def _write_sound(path, making):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(making.channels)
        sound.setsampwidth(2)
        sound.setframerate(making.sample_rate)
        sound.writeframes(_sound(making).tobytes())


def write_flashes(path, making):
    """Write the clip that `making` describes under any name."""
    scratch = path.parent / f".making.{making.container}"
    sound = path.parent / ".sound.wav"
    _write_sound(sound, making)
    size = f"{making.width}x{making.height}"
    pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", making.rate, "-i", "pipe:"]
    odd = making.width % 2 or making.height % 2
    pixels = "yuv444p" if odd and making.video in ("libx264", "libx265") else "yuv420p"
    options = ["-c:v", making.video, *_VIDEO_OPTIONS[making.video], "-pix_fmt", pixels]
    options += ["-c:a", making.audio, "-threads", "1"]
    options += ["-mapping_family", "1"] if making.audio == "libopus" and making.channels > 2 else []
    options += ["-an"] if making.flaw == "mute" else []
    if making.flaw == "variable":
        late = "settb=1/1000,setpts=(N+0.6*mod(N\\,2))*1000/24"
        options += ["-vf", late, "-fps_mode", "passthrough", "-enc_time_base:v", "1/1000"]
    if making.container == "avi":  # without times, a shift to positive ones would lose the sync
        options += ["-avoid_negative_ts", "disabled"]
    if making.start_s:
        options += ["-output_ts_offset", making.start_s]
    form = _FORMATS.get(making.container, making.container)
    frozen = making.flaw == "frozen"
    raw = _pictures(making.width, making.height, making.rate, making.seconds, frozen, making.corner)
    run_ffmpeg(*pictures, "-i", sound, *options, "-f", form, scratch, feed=raw)
    sound.unlink()
    if making.rotation:
        turned(scratch, making.rotation)
    scratch.replace(path)
    return path


def _making(number, rng):
    container, video, audio = _CODECS[number % len(_CODECS)]
    width, height = _SIZES[number % len(_SIZES)]
    sample_rate = int(rng.choice(_SAMPLE_RATES.get(audio, _ANY_RATE)))
    channels = _LAYOUTS[audio][number % len(_LAYOUTS[audio])]
    return Making(
        container=container,
        video=video,
        audio=audio,
        width=width,
        height=height,
        rate=_RATES[number % len(_RATES)],
        channels=channels if container != "ts" else min(channels, 6),
        sample_rate=sample_rate,
        seconds=(1.5, 2.0, 2.75)[number % 3],
        lag_ms=LAGS_MS[number % len(LAGS_MS)],
        rotation=(0, 90, 180, 270)[number // 2 % 4] if container in ("mp4", "mov") else 0,
        start_s=1.4 if container in ("mkv", "ts", "mp4") and number % 4 == 1 else 0.0,
    )


def _flawed(making, flaw, earlier):
    """`making` with a flaw; a frame shorter for each of the `earlier` ones: no two are copies."""
    plain = replace(making, container="mp4", video="libx264", audio="aac", rate="24", flaw=flaw)
    plain = replace(plain, channels=2, sample_rate=48_000, start_s=0.0)
    plain = replace(plain, seconds=plain.seconds - earlier / 24)
    if flaw == "short":
        return replace(plain, seconds=0.7)
    return replace(plain, width=16, height=16) if flaw == "small" else plain


def write_zoo(folder, count, seed=0):
    """`count` readable clips for windows of one second; every sixth has a flaw for a gate."""
    rng = np.random.default_rng(seed)
    clips = []
    for number in range(count):
        making, expected = _making(number, rng), OK
        if number % _FLAWED_EVERY == _FLAWED_EVERY - 1:
            earlier, which = divmod(number // _FLAWED_EVERY, len(_FLAWS))
            flaw = list(_FLAWS)[which]
            making, expected = _flawed(making, flaw, earlier), ("filtered", _FLAWS[flaw])
        stem = _NAMES[number % len(_NAMES)].format(n=number)
        name = f"{stem}.{making.container}"
        write_flashes(folder / name, making)
        clips.append(ZooClip(name, *expected, shown_lag_ms(making) if expected == OK else None))
    return clips


_PLAYLISTS = {
    "playlist.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n#EXT-X-ENDLIST\n",
    "playlist.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n#EXT-X-ENDLIST\n",
    "remote.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
    "joined.mp4": "ffconcat version 1.0\nfile '{clip}'\n",
    "joined.ffconcat": "ffconcat version 1.0\nfile '{clip}'\n",
    "remote_joined.mp4": "ffconcat version 1.0\nfile '{url}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "reference.mov": "RTSPtextRTSP://127.0.0.1:9/a",
    "page.mp4": "<html><body>not found</body></html>",
}


def _png(width, height, rows):
    """A picture of one colour: small as a file, and width times height pixels to decode."""

    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes((width * 3 + 1) * rows), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _index_bomb(content):
    """An MP4 of one chunk of 150 million samples of a byte: gigabytes of index."""
    bomb, many = bytearray(content), 150_000_000
    sizes, chunks = bomb.index(b"stsz"), bomb.index(b"stsc")
    bomb[sizes + 8 : sizes + 16] = struct.pack(">II", 1, many)
    bomb[chunks + 8 : chunks + 20] = struct.pack(">III", 1, 1, many)
    return bytes(bomb)


def _boxes(content):
    """Name, start and end of the outermost boxes of an MP4."""
    place = 0
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        yield kind.decode(), place, place + size
        place += size


def _write_bombs(folder, good):
    """Little files that are much to decode."""
    sound = ["-f", "lavfi", "-i", "sine=f=440:d=2"]
    for name, form, width, height in (
        ("bomb.mov", "mov", 7_000, 6_000),
        ("bomb.mkv", "matroska", 12_000, 10_000),
    ):
        picture = folder / ".bomb.png"
        picture.write_bytes(_png(width, height, rows=100))
        still = ["-framerate", "1", "-i", picture]
        run_ffmpeg(*still, *sound, "-c:v", "copy", "-c:a", "aac", "-f", form, folder / name)
        picture.unlink()
    lying = bytearray(good.read_bytes())
    size = lying.index(b"avc1") + 28
    # The box says 65,000 pixels square; what counts is what the H.264 stream says.
    lying[size : size + 4] = struct.pack(">HH", 65_000, 65_000)
    (folder / "lies.mp4").write_bytes(lying)
    (folder / "index.mp4").write_bytes(_index_bomb(good.read_bytes()))
    for name, form in (("four_hours.mp4", "mp4"), ("four_hours.mkv", "matroska")):
        clock = ["-f", "lavfi", "-i", "color=s=64x64:r=1/14400:d=14400"]
        beep = ["-f", "lavfi", "-i", "sine=f=440:d=1:r=8000"]
        run_ffmpeg(*clock, *beep, "-c:v", "libx264", "-c:a", "aac", "-f", form, folder / name)
    return [
        ZooClip("bomb.mov", "filtered", "too_many_pixels"),
        ZooClip("bomb.mkv", *UNREADABLE),
        ZooClip("lies.mp4", *OK),
        ZooClip("index.mp4", *UNREADABLE),
        ZooClip("four_hours.mp4", "filtered", "too_long"),
        ZooClip("four_hours.mkv", "filtered", "too_long"),
    ]


def _write_cut(folder, good, other):
    """Files that end early, or lack a part."""
    whole, parts = good.read_bytes(), {}
    for percent in (1, 5, 10, 20, 40, 60, 80, 95):
        parts[f"cut_{percent}.mp4"] = whole[: len(whole) * percent // 100]
    for percent in (30, 70):
        content = other.read_bytes()
        parts[f"cut_{percent}.mkv"] = content[: len(content) * percent // 100]
    boxes = {name: whole[start:end] for name, start, end in _boxes(whole)}
    parts["no_mdat.mp4"] = boxes["ftyp"] + boxes["moov"]
    parts["no_moov.mp4"] = boxes["ftyp"] + boxes["mdat"]
    parts["header.mp4"] = boxes["ftyp"]
    parts["zeroed.mp4"] = boxes["ftyp"] + boxes["moov"] + bytes(len(boxes["mdat"]))
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    return [ZooClip(name, *UNREADABLE) for name in parts]


def _write_others(folder, good):
    """What is no clip at all, whatever it is called."""
    rng = np.random.default_rng(0)
    (folder / "nothing.mp4").touch()
    (folder / "noise.mp4").write_bytes(rng.bytes(50_000))
    (folder / "noise.ts").write_bytes(b"G" + rng.bytes(50_000))
    (folder / "noise_inside.mp4").write_bytes(good.read_bytes()[:32] + rng.bytes(50_000))
    (folder / "zeros.mp4").write_bytes(bytes(50_000))
    (folder / "folder.mp4").mkdir()
    (folder / "nowhere.mp4").symlink_to(folder / "no such file")
    (folder / "picture.mp4").write_bytes(_png(64, 64, rows=64))
    _write_sound(folder / "sound.mp4", Making())
    names = ("nothing", "noise", "noise_inside", "zeros", "folder", "nowhere", "picture", "sound")
    return [ZooClip(f"{name}.mp4", *UNREADABLE) for name in names] + [
        ZooClip("noise.ts", *UNREADABLE)
    ]


def write_broken(folder, seed=0, url="http://127.0.0.1:9/a.ts"):
    """Forty files that must not be decoded; playlists point at a clip outside and at `url`."""
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    making = Making(lag_ms=LAGS_MS[seed % len(LAGS_MS)])
    write_flashes(outside / "clip.ts", replace(making, container="ts"))
    quick = outside / "quick.mp4"
    run_ffmpeg(
        "-i", outside / "clip.ts", "-c", "copy", "-movflags", "+faststart", "-f", "mp4", quick
    )
    other = write_flashes(outside / "clip.mkv", replace(making, container="mkv"))
    for name, text in _PLAYLISTS.items():
        (folder / name).write_text(text.format(clip=outside / "clip.ts", url=url))
    clips = [ZooClip(name, *UNREADABLE) for name in _PLAYLISTS]
    clips += _write_bombs(folder, quick)
    clips += _write_cut(folder, quick, other)
    clips += _write_others(folder, quick)
    return clips
