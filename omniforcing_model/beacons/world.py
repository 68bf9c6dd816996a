"""The world of `tiny`: a disc that flashes and fades, a beep at each flash, a caption of both.

Everything is known exactly: colour, rate, pitch and the time of every flash. That makes the offset
between picture and sound measurable without a learned metric. Imports no torch.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omniforcing_model.errors import BeaconError, CaptionError
from omniforcing_model.latent_clock import VIDEO_FPS

FPS = VIDEO_FPS
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 32, 32),
    "green": (32, 255, 32),
    "blue": (32, 32, 255),
    "yellow": (255, 255, 32),
}
RATES_HZ = (1, 2, 3)
# Centres of the mel bands 9, 19 and 33 of codecs/mel.py: a beep is one sinusoid of the vocoder.
PITCHES: dict[str, float] = {"low": 464.0575, "middle": 928.1151, "high": 1814.6062}

BACKGROUND = (32, 32, 32)
DISC_RADIUS_PX = 20.0
FLASH_DECAY_S = 0.12
BEEP_DECAY_S = 0.08
BEEP_AMPLITUDE = 0.5
_AUDIBLE_PAST_BEEPS = 4


@dataclass(frozen=True)
class BeaconTraits:
    """What a caption describes: colour, flashes per second, pitch of the beep."""

    colour: str
    rate_hz: int
    pitch: str

    def __post_init__(self) -> None:
        known: tuple[tuple[str, Collection[object]], ...] = (
            ("colour", list(COLOURS)),
            ("rate_hz", RATES_HZ),
            ("pitch", list(PITCHES)),
        )
        for name, values in known:
            if getattr(self, name) not in values:
                raise BeaconError(
                    f"expected {name} one of {values}, got {getattr(self, name)!r}; use one of them"
                )


@dataclass(frozen=True)
class Beacon(BeaconTraits):
    """One clip of the world: traits, and the first flash at `phase_frames` / 24 seconds.

    It has been flashing for ever, so a clip may begin in the fade of an earlier flash.
    """

    phase_frames: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.phase_frames < self.period_frames:
            raise BeaconError(
                f"expected 0 <= phase_frames < {self.period_frames} at {self.rate_hz} flashes a "
                f"second, got {self.phase_frames}; take the remainder"
            )

    @property
    def period_frames(self) -> int:
        """Video frames from flash to flash; whole, as every rate divides 24."""
        return FPS // self.rate_hz

    @property
    def traits(self) -> BeaconTraits:
        """The beacon without its phase: what a caption can describe."""
        return BeaconTraits(self.colour, self.rate_hz, self.pitch)


def sample_beacon(rng: np.random.Generator) -> Beacon:
    """Draw colour, rate, pitch and phase uniformly."""
    rate_hz = int(rng.choice(RATES_HZ))
    return Beacon(
        colour=str(rng.choice(list(COLOURS))),
        rate_hz=rate_hz,
        pitch=str(rng.choice(list(PITCHES))),
        phase_frames=int(rng.integers(FPS // rate_hz)),
    )


def flash_times(beacon: Beacon, seconds: float) -> list[float]:
    """Times of the flashes in [0, seconds), in seconds."""
    times = np.arange(beacon.phase_frames, seconds * FPS, beacon.period_frames) / FPS
    return [float(time) for time in times]


def render_frames(beacon: Beacon, frames: int = 121, size: int = 64) -> NDArray[np.uint8]:
    """Pictures, (frames, size, size, 3) RGB; frame n shows the time n / 24 s.

    A flash at frame n is fully bright in frame n, then fades to the background.
    """
    age_s = (np.arange(frames) - beacon.phase_frames) % beacon.period_frames / FPS
    brightness = np.exp(-age_s / FLASH_DECAY_S)
    offset = np.arange(size) - (size - 1) / 2
    distance = np.hypot(offset[:, None], offset[None, :])
    disc = np.clip(DISC_RADIUS_PX + 0.5 - distance, 0.0, 1.0)
    background = np.array(BACKGROUND, np.float64)
    glow = np.array(COLOURS[beacon.colour], np.float64) - background
    pictures = background + brightness[:, None, None, None] * disc[None, :, :, None] * glow
    rounded: NDArray[np.uint8] = np.rint(pictures).astype(np.uint8)
    return rounded


def render_waveform(beacon: Beacon, seconds: float, sample_rate: int) -> NDArray[np.float32]:
    """Mono sound, (samples,), round(seconds * sample_rate) samples within [-1, 1]."""
    # In units of 1 / (24 * sample_rate) s every time is an integer: a beep starts on its sample.
    ticks = np.arange(round(seconds * sample_rate), dtype=np.int64) * FPS
    period = beacon.period_frames * sample_rate
    age = (ticks - beacon.phase_frames * sample_rate) % period
    wave = np.zeros(age.shape)
    for past in range(_AUDIBLE_PAST_BEEPS):
        age_s = (age + past * period) / (FPS * sample_rate)
        tone = np.sin(2 * np.pi * PITCHES[beacon.pitch] * age_s)
        wave += BEEP_AMPLITUDE * np.exp(-age_s / BEEP_DECAY_S) * tone
    return wave.astype(np.float32)


_TIMES = {1: "once", 2: "twice", 3: "three times"}
_NUMBERS = {1: "one", 2: "two", 3: "three"}

CAPTION_VARIANTS = (
    "a {colour} disc flashes {times} a second with a {pitch} beep",
    "a {pitch} beep sounds {times} per second as a {colour} disc flashes",
    "on a dark background a {colour} disc blinks {times} every second, each flash with a "
    "{pitch} tone",
    "a flashing {colour} disc, {number} {flashes} per second, and a {pitch}-pitched beep at every "
    "flash",
    "{times} a second a {colour} light pulses in the dark while a {pitch} beep rings out",
    "we see a {colour} disc light up and fade {times} each second, and hear a {pitch} beep with it",
)
_RAW_VARIANTS = (
    "{colour} beacon, {digit} Hz, {pitch} tone",
    "{colour} light blinking {digit}/s, {pitch} beep",
    "beacon {colour} / {times} per second / {pitch} pitch",
    "flash {colour}; rate {digit}hz; audio {pitch}",
    "{Colour} disc {digit}x per second + {pitch} beep",
    "{pitch} beeps and {colour} flashes, {number} per second",
)


def _fill(template: str, traits: BeaconTraits) -> str:
    return template.format(
        colour=traits.colour,
        Colour=traits.colour.capitalize(),
        pitch=traits.pitch,
        times=_TIMES[traits.rate_hz],
        number=_NUMBERS[traits.rate_hz],
        digit=traits.rate_hz,
        flashes="flash" if traits.rate_hz == 1 else "flashes",
    )


def raw_caption(beacon: BeaconTraits, rng: np.random.Generator) -> str:
    """A terse caption as data sets have it; `rng` draws the wording."""
    return _fill(_RAW_VARIANTS[int(rng.integers(len(_RAW_VARIANTS)))], beacon)


def beacon_caption(beacon: BeaconTraits, variant: int) -> str:
    """A full sentence on picture and sound; `variant` counts through the wordings, and wraps."""
    return _fill(CAPTION_VARIANTS[variant % len(CAPTION_VARIANTS)], beacon)


_PITCH_WORDS = {"low": "low", "deep": "low", "middle": "middle", "mid": "middle"} | {
    "medium": "middle",
    "high": "high",
}
_NUMBER_WORDS = {"a": 1, "one": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_NUMBER_WORDS |= {"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_NUMBER = r"(\d+(?:\.\d+)?|one|two|three|four|five|six|seven|eight|nine|ten)"
_PER_SECOND = r"(?:(?:a|per|each|every|in one) second|/ ?s(?:ec(?:ond)?)?\b|per sec\b)"
_ADVERBS = (
    (re.compile(r"\bonce\b"), 1.0),
    (re.compile(r"\btwice\b"), 2.0),
    (re.compile(r"\bthrice\b"), 3.0),
    (re.compile(r"\bevery half(?: a)? second\b"), 2.0),
)
_COUNTS = (
    re.compile(rf"\b{_NUMBER}[ -]?(?:hz|hertz)\b"),
    re.compile(rf"\b{_NUMBER} ?(?:[a-z]+ ?)?{_PER_SECOND}"),
    re.compile(rf"\b{_NUMBER} ?(?:x\b|times\b)"),
)


def _rates(text: str) -> set[float]:
    rates = {rate for pattern, rate in _ADVERBS if pattern.search(text)}
    for pattern in _COUNTS:
        for match in pattern.findall(text):
            rates.add(float(_NUMBER_WORDS.get(match, match)))
    if not rates and re.search(r"\b(?:every|each) second\b", text):
        rates.add(1.0)
    return rates


def _single(values: Sequence[str], trait: str, known: Sequence[str], text: str) -> str:
    """The one value that a caption names for a trait; CaptionError for none or several."""
    if len(set(values)) != 1:
        got = " and ".join(sorted(set(values))) or "none"
        raise CaptionError(
            f"expected one {trait} of {', '.join(known)}, got {got} in {text[:120]!r}; "
            "write for example 'a red disc flashes twice a second with a high beep'"
        )
    return values[0]


def parse_caption(text: str) -> BeaconTraits:
    """Read colour, rate and pitch from any wording of this file, and from looser ones.

    Raises CaptionError when one of them is missing, contradictory or unknown.
    """
    lowered = " ".join(text.lower().replace("_", " ").split())
    words = re.findall(r"[a-z]+", lowered)
    colour = _single([word for word in words if word in COLOURS], "colour", list(COLOURS), text)
    pitches = [_PITCH_WORDS[word] for word in words if word in _PITCH_WORDS]
    pitch = _single(pitches, "pitch", list(PITCHES), text)
    rates = [f"{rate:g}" for rate in sorted(_rates(lowered))]
    known_rates = [str(rate) for rate in RATES_HZ]
    rate = _single(rates, "rate (flashes a second)", known_rates, text)
    if rate not in known_rates:
        raise CaptionError(
            f"expected 1, 2 or 3 flashes a second, got {rate} in {text[:120]!r}; slow it down"
        )
    return BeaconTraits(colour, int(rate), pitch)


def held_out_prompts(n: int, seed: int) -> list[str]:
    """`n` captions for evaluation: all 36 traits in a shuffled order, again and again."""
    rng = np.random.default_rng(seed)
    grid = [
        BeaconTraits(colour, rate_hz, pitch)
        for colour in COLOURS
        for rate_hz in RATES_HZ
        for pitch in PITCHES
    ]
    prompts: list[str] = []
    while len(prompts) < n:
        order = rng.permutation(len(grid))
        variants = rng.integers(len(CAPTION_VARIANTS), size=len(grid))
        prompts += [beacon_caption(grid[i], int(v)) for i, v in zip(order, variants, strict=True)]
    return prompts[:n]
