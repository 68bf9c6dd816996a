"""Whether a rewritten caption is fit to learn from: cheap rules, and a small model of languages.

They catch what goes wrong with language models: nothing, a refusal, talk around the answer,
markdown, another language, a list of words, a length that is off, a paragraph that forgets the
picture or the sound. They do not check that the paragraph is true to its caption.
A rule that changes raises TEXT_VERSION of pipelines/preprocessing/keys.py.
"""

import re
from functools import cache
from typing import Any

from infra.config import RewriterConfig

# A stem of this length or more stands for every word that begins with it; a shorter one only for
# itself with an ending, for "hum" is no part of "human".
_OPEN_STEM = 5
_ENDINGS = "(?:s|es|d|ed|ing|y|ly|er|ers)?"

_PICTURE = """
    camera shot frame framing view scene close-up closeup zoom pan panning tilt dolly footage clip
    screen lens angle pictur image visib see seen show shown look watch gaze appear reveal
    foreground background horizon silhouette shadow light lit bright dark glow glint gleam shine
    shines shining shone spark flicker flash blink strobe pulse pulsing fade fading
    color colour hue red orange yellow green blue purple violet pink brown black white grey gray
    gold silver beige transparent
    man men woman women people person child children boy girl crowd face hair eye hand finger arm
    shoulder head wear shirt dress jacket coat hat dog cat bird horse animal tree forest leaf leaves
    grass flower sky cloud sun sunny sunlit moon star water river lake ocean sea wave beach mountain
    hill valley field road street city building house room wall window door table floor desk car
    truck train boat ship plane bicycle bike machine disc circle square shape smoke fire flame snow
    rain stand sit walk run running move moving motion turn climb fall jump drift roll spin float
    slide hold open close
"""
_SOUND = """
    sound hear heard audible audio noise noisy music song sing sang sung singing melod tune rhythm
    drum guitar piano violin trumpet flute orchestra choir chord voice vocal speak spoke speech say
    says said reply replies answer ask call exclaim announc talk tell convers dialog narrat whisper
    shout yell scream shriek cry cries laugh giggl
    chuckl sigh gasp groan moan cough sneeze snore breath mutter murmur mumbl chatter cheer applau
    clap clapping chant whistl chirp tweet bark meow purr moo neigh bleat growl roar howl hoot croak
    squawk quack cluck rumbl thunder hum humming hummed buzz drone droning whir whirr whine whining
    whoosh swoosh beep pitch ping ring rang chime chiming bell toll jingl clang clank clink
    clatter rattl click clack tick creak squeak squeal screech scrape scraping crackl crunch snap
    snapping pop popping thud thump bang boom blast knock tap tapping stomp footstep hoofbeat patter
    drip dripping splash gurgl babbl bubbl trickl hiss sizzl fizz rustl swish siren horn honk alarm
    echo revers reverb resona loud quiet silen hush soundless mute ambien acoustic
"""

# The small words that no English sentence does without.
_SMALL = """
    a an the of to in on at by for from with without into onto over under as is are was be and or
    but while then when who which that this these it its his her he she they their them there up
    down out off through across around between behind before after near against along each one two
    every no not so we you i per
"""
_LEAST_SMALL_WORDS = 0.15
# The identifier gives nearly all English of five words more than this, other languages less.
_LEAST_ENGLISH = 0.02
_MOST_OTHER_LETTERS = 0.1

_STRAIGHT = str.maketrans(dict.fromkeys("\u2018\u2019", "'") | dict.fromkeys("\u201c\u201d", '"'))

# An apostrophe inside a word ends no speech.
_SPEECH = re.compile(r"\"[^\"]*\"|(?<!\w)'(?:[^'\n]|(?<=\w)'(?=\w))+'(?!\w)")
_REFUSAL = re.compile(
    r"\bI(?: cannot|'m sorry| am sorry| can't| can not| am unable| am not able|'m unable"
    r"|'m not able| apologi[sz]e| do not have| don't have| won't| will not)\b"
    r"|\bas an? (?:AI|artificial|language model|large language)\b"
    r"|\b(?:provide|share|send) (?:me )?(?:with )?(?:the|a|your|more) (?:raw )?(?:caption|detail)",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"(?:here(?:'s| is| are)\b|(?:sure|certainly|absolutely|okay|ok|alright|of course)[,.!:]"
    r"|below is\b|the following (?:is|paragraph|caption|text)\b"
    r"|(?:[\w-]+ ){0,4}(?:caption|prompt|description|paragraph|output|version|answer|text)s?:)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\blet me know\b|\bI hope (?:this|that)\b|\bI(?:'ve| have) (?:re)?written\b|\bword count\b"
    r"|\b(?:raw|original|given) caption\b|(?:^|[.(\n] *)note:",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(
    r"\*\*|__|`|^ *#{1,6} |^ *(?:[-*•>]|\d+[.)]) |(?<!\w)\*\w|</?\w[^<>\s]*>|^ *[\[{]",
    re.MULTILINE,
)


def caption_problem(text: str, config: RewriterConfig) -> str:
    """What is wrong with `text` as a caption: "expected ..., got ...", '' if nothing is.

    Words are what stands between spaces; `config` says how many there may be. What people say in
    quotation marks may be in any words and language.
    """
    text = text.strip().translate(_STRAIGHT)
    if not text:
        return "expected a paragraph, got nothing"
    unquoted = _SPEECH.sub(" ", text)
    return (
        _form_problem(text)
        or _script_problem(unquoted)
        or _talk_problem(unquoted)
        or _length_problem(text, config)
        or _language_problem(unquoted)
        or _sentence_problem(unquoted)
        or _scene_problem(unquoted)
    )


def _form_problem(text: str) -> str:
    """Marks around or inside the paragraph, or several of them."""
    mark = _MARKDOWN.search(text)
    if mark:
        return f"expected plain text, got {mark.group().strip()!r}"
    if _SPEECH.fullmatch(text):
        return "expected plain text, got quotation marks around all of it"
    if re.search(r"\n\s*\n", text):
        return "expected one paragraph, got several"
    return ""


def _talk_problem(unquoted: str) -> str:
    """Words to the reader instead of, before or after the caption."""
    unquoted = unquoted.strip()
    for what, words in (
        ("a refusal", _REFUSAL.search(unquoted)),
        ("words before it", _PREAMBLE.match(unquoted)),
        ("a remark on it", _REMARK.search(unquoted)),
    ):
        if words:
            return f"expected the paragraph alone, got {what}: {words.group().strip()!r}"
    return ""


def _script_problem(unquoted: str) -> str:
    letters = [letter for letter in unquoted if letter.isalpha()]
    other = sum(not letter.isascii() for letter in letters)
    if other > _MOST_OTHER_LETTERS * len(letters):
        return f"expected English, got {other} letters of another script in {len(letters)}"
    return ""


def _length_problem(text: str, config: RewriterConfig) -> str:
    words = len(text.split())
    if config.min_words <= words <= config.max_words:
        return ""
    return f"expected {config.min_words} to {config.max_words} words, got {words}"


def _language_problem(unquoted: str) -> str:
    """English is next to impossible; less likely than another language is no reason, which a few
    words of it with foreign names are."""
    if not any(map(str.isalpha, unquoted)):
        return ""
    probabilities = dict(_identifier().rank(unquoted))
    if probabilities["en"] < _LEAST_ENGLISH:
        language = max(probabilities, key=probabilities.__getitem__)
        return f"expected English, got the language {language!r}"
    return ""


@cache
def _identifier() -> Any:
    """py3langid's; read once per process, in which it takes 100 MB and a second."""
    # It ships no types.
    from py3langid import langid  # noqa: PLC0415

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _sentence_problem(unquoted: str) -> str:
    words = re.findall(r"[^\W\d_]+", unquoted.lower())
    small = sum(word in _SMALL_WORDS for word in words)
    if small < _LEAST_SMALL_WORDS * len(words):
        return f"expected sentences, got a list with {small} small words in {len(words)}"
    return ""


def _scene_problem(unquoted: str) -> str:
    if not _PICTURE_WORDS.search(unquoted):
        return "expected what is seen, got only what is heard"
    if not _SOUND_WORDS.search(unquoted):
        return "expected what is heard, or that it is silent, got only what is seen"
    return ""


def _any_of(listed: str, *patterns: str) -> re.Pattern[str]:
    """Matches a word that begins with a longer stem or is a shorter one, and the patterns."""
    stems = listed.split()
    opened = "|".join(re.escape(stem) for stem in stems if len(stem) >= _OPEN_STEM)
    whole = "|".join(re.escape(stem) for stem in stems if len(stem) < _OPEN_STEM)
    word = rf"\b(?:(?:{opened})\w*|(?:{whole}){_ENDINGS})\b"
    return re.compile("|".join((word, *patterns)), re.IGNORECASE)


# Colours have tones too: one counts as a sound where it is high or low, as a beep is.
_TONE = r"\b(?:low|middle|high|deep|single|steady|pure|musical)(?:[ -]pitched)? tones?\b"
_PICTURE_WORDS = _any_of(_PICTURE)
_SOUND_WORDS = _any_of(_SOUND, _TONE)
_SMALL_WORDS = frozenset(_SMALL.split())
