import time

import pytest

from actors.captions.validation import caption_problem
from infra.presets import load_preset
from omniforcing_model.beacons.world import BeaconTraits, beacon_caption, held_out_prompts

CONFIG = load_preset("tiny").data.rewriter
STRICT = CONFIG.model_copy(update={"min_words": 20, "max_words": 250})

GOOD = (
    "A red disc flashes twice a second with a high beep.",
    "a blue disc, three flashes per second, and a low-pitched beep at every flash",
    "On a dark background a green disc blinks once every second, each flash with a middle tone.",
    "Waves roll onto a sandy beach under a pale sky; each one breaks with a soft roar and hisses"
    " back over the pebbles.",
    "A brown dog runs across a wet lawn towards the camera, barking twice as it stops, while"
    " traffic hums behind a hedge.",
    "A woman in a yellow raincoat stands at a bus stop at night. Rain patters on the glass roof"
    ' above her. She turns to the camera and says, "I\'m sorry, I cannot wait any longer."',
    "A close-up shows a kettle on a gas flame. Steam rises from the spout, and a whistle begins"
    " quietly and grows louder until a hand lifts the kettle and the whistle stops.",
    "The camera pans slowly over an empty stadium in grey morning light. It is silent.",
    "A man in his sixties plays an upright piano in a dim room; each key he presses is heard as a"
    " clear note, and the bench creaks as he leans back.",
    "A steam train approaches from the left, its wheels clattering over the rail joints, and blows"
    " its horn once as it passes a level crossing.",
    "Two children splash in a shallow pool and laugh; a third child jumps in with a loud splash.",
    "A wide shot of a pine forest in fog. A woodpecker taps at a trunk, pauses, and taps again.",
    "A cat sits on a windowsill in warm afternoon light, purring, and its tail moves in time.",
    "Sure-footed goats climb a rocky slope in bright sun, and the bells around their necks clang"
    " with every step.",
    "A waiter sets down a cup; the saucer clinks on the marble table. Over the counter behind him"
    " an espresso machine hisses.",
    "At night, fireworks burst red and gold over a river. The bangs arrive a moment after each"
    " flash, and a crowd on the bank cheers.",
    "A carpenter pushes a plane along a board; curls of wood fall to the floor with each long"
    " scraping stroke.",
    "A singer in a black dress holds a microphone under a blue spotlight and sings a slow ballad"
    " while a guitar plays softly. At the end the audience applauds.",
    "A man in a café lifts his cup, smiles, and says in French, “Bonjour, mes amis, comment allez"
    " vous ce matin dans la ville?” while chairs scrape behind him.",
    "A spinning coin wobbles on a glass table and rings faster and faster until it falls flat.",
    "The engine of a red car starts with a cough, idles with a low rumble, and the car pulls away"
    " along a gravel road, stones crunching under its tyres.",
    "A teacher writes 'x = 4' on a blackboard, the chalk squeaking, and a bell rings in the hall.",
    "\u2018It\u2019s late,\u2019 says a girl in a green coat, and the wooden door creaks.",
)


@pytest.mark.parametrize("text", GOOD)
def test_a_good_paragraph_passes(text):
    assert caption_problem(text, CONFIG) == ""


def test_every_sentence_of_the_beacon_world_passes():
    wordings = [beacon_caption(BeaconTraits("red", 1, "low"), number) for number in range(6)]
    for text in [*wordings, *held_out_prompts(72, seed=1)]:
        assert caption_problem(text, CONFIG) == "", text


SHORTENED = "A red disc flashes twice a second with a high beep."
BAD = (
    ("", "nothing"),
    (" \n\t ", "nothing"),
    ("Red disc, beep.", "words, got 3"),
    (f"{SHORTENED} " * 30, "words, got 330"),
    ("I cannot describe this video, as the light and the sound are unclear.", "a refusal"),
    ("As an AI, I see a red disc and hear a beep.", "a refusal"),
    ("I'm sorry, but the caption of the red disc with a beep is not enough.", "a refusal"),
    ("I\u2019m unable to watch videos or to hear the sound of them in a room.", "a refusal"),
    ("Please provide the raw caption of the video with its sound.", "a refusal"),
    (f"Here is the paragraph: {SHORTENED}", "words before it"),
    (f"Here's your caption. {SHORTENED}", "words before it"),
    (f"Sure, {SHORTENED}", "words before it"),
    (f"Certainly! {SHORTENED}", "words before it"),
    (f"Caption: {SHORTENED}", "words before it"),
    (f"Rewritten caption: {SHORTENED}", "words before it"),
    (f"{SHORTENED} Let me know if you want a longer one.", "a remark on it"),
    (f"{SHORTENED}\nNote: the pitch was in the caption.", "a remark on it"),
    ("A red disc flashes with a beep, as the original caption says.", "a remark on it"),
    (f'"{SHORTENED}"', "quotation marks"),
    (f"“{SHORTENED}”", "quotation marks"),
    (f"**{SHORTENED}**", "plain text"),
    (f"# Scene\n{SHORTENED}", "plain text"),
    (f"- {SHORTENED}\n- It repeats.", "plain text"),
    (f"1. {SHORTENED}", "plain text"),
    (f"```\n{SHORTENED}\n```", "plain text"),
    (f'{{"caption": "{SHORTENED}"}}', "plain text"),
    (f"{SHORTENED}<end_of_turn>", "plain text"),
    (f"{SHORTENED}\n\nIt goes on in the dark with a beep.", "one paragraph"),
    ("红色的圆盘每秒闪烁两次 并伴随着 高音 的 哔哔声", "another script"),
    ("Красный диск мигает дважды под высокий сигнал", "another script"),
    ("Un disque rouge clignote deux fois par seconde avec un bip aigu dans la nuit", "English"),
    ("Eine rote Scheibe blinkt zweimal in der Sekunde mit einem hohen Piepton", "English"),
    ("Un disco rojo parpadea dos veces a la vez que suena con un pitido agudo", "English"),
    ("红色的圆盘 '每秒' 闪烁两次", "another script"),
    ("red disc flash beep red disc flash beep red disc flash beep", "sentences"),
    ("woman, kitchen, knife, onion, chopping, sizzling, pan, radio, music, light", "sentences"),
    ("A red disc flashes twice a second on a dark background.", "what is heard"),
    ("A woman in warm autumn tones walks through a human crowd in the street.", "what is heard"),
    ("There is a high beep twice a second, and then a lower one.", "what is seen"),
    ('It says: "A red disc is on a dark background, in front of the camera."', "what is seen"),
)


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_one_is_refused_with_the_reason(text, expected):
    problem = caption_problem(text, CONFIG)
    assert problem.startswith("expected ")
    assert expected in problem


# Few words, and names of elsewhere.
SHORT = (
    "A man coughs.",
    "The crowd cheers in the rain.",
    "A woman sings in a karaoke bar.",
    "Footsteps crunch in the snow.",
    "It is silent, and the screen is dark.",
    "A DJ in Ibiza turns to the loud crowd.",
    "A mariachi band in Guadalajara plays trumpets in the street.",
    "The band Rammstein plays in Berlin, and the flames roar.",
    "Chef Giovanni stands in a trattoria in Napoli, humming.",
    "A Mercedes moves through the Schwarzwald with a hum.",
    "A samurai holds a katana, and a bell rings in Edo.",
    "In Kyoto a geisha in a kimono sings in a room.",
)


@pytest.mark.parametrize("text", SHORT)
def test_a_few_words_with_foreign_names_are_english(text):
    assert caption_problem(text, CONFIG.model_copy(update={"min_words": 3})) == ""


# All with words that an English sentence on picture and sound may have.
FOREIGN = (
    ("de", "Ein Hund bellt laut in einem Auto, und ein Ton wie von einem Horn antwortet."),
    ("fr", "Une femme chante sur la scène tandis que le public applaudit au son du piano."),
    ("es", "Una mujer canta en el escenario mientras suena un piano y el público aplaude."),
    ("it", "Un disco rosso lampeggia due volte al secondo con un bip acuto."),
    ("pt", "Um disco vermelho pisca duas vezes por segundo com um bip agudo."),
    ("nl", "Een rode schijf knippert twee keer per seconde met een hoge piep."),
    ("sv", "En cirkel blinkar i ljuset medan en ton hörs i bakgrunden med en trumma."),
    ("pl", "Czerwony dysk miga dwa razy na sekunde z wysokim dzwiekiem."),
    ("id", "Sebuah cakram merah berkedip dua kali per detik dengan bunyi bip tinggi."),
    ("fi", "Punainen levy vilkkuu kahdesti sekunnissa korkealla piippauksella."),
    ("de", "A red disc flashes, und ein hoher Ton erklingt zweimal in der Sekunde im Dunkeln."),
)


@pytest.mark.parametrize(("language", "text"), FOREIGN)
def test_another_language_in_latin_script_is_refused_and_named(language, text):
    assert caption_problem(text, CONFIG) == f"expected English, got the language {language!r}"


def test_what_is_said_in_quotation_marks_may_be_in_any_language():
    text = f'A man in a hat says, "{FOREIGN[0][1]}" A door creaks.'
    assert caption_problem(text, CONFIG) == ""
    assert "English" in caption_problem(text.replace('"', ""), CONFIG)


def test_speech_alone_is_no_scene_in_any_language():
    assert caption_problem('"Hello there," "how are you?"', CONFIG).startswith("expected what is")


def test_a_list_is_what_has_few_small_words():
    config = CONFIG.model_copy(update={"max_words": 60})
    flashes = "red disc flashes beep tone sound "
    # Three in twenty are enough, and one less is not.
    assert caption_problem(f"{flashes * 2} the of a red disc flashes beep tone", config) == ""
    assert caption_problem(f"{flashes * 3} the of", config) == (
        "expected sentences, got a list with 2 small words in 20"
    )


def test_a_few_letters_of_another_script_are_no_other_script():
    nine, ten = "é" * 9, "é" * 10
    sentence = (
        "The red disc flashes with a beep in the middle of the dark as each tone sounds again"
    )
    letters = sum(map(str.isalpha, sentence))
    assert letters > 60
    assert "script" in caption_problem(f"{sentence} {ten}", CONFIG)
    assert "script" not in caption_problem(f"{sentence} {'é' * 7}", CONFIG)
    assert caption_problem(f"{'é' * 4} {nine}", CONFIG) == (
        "expected English, got 13 letters of another script in 13"
    )


def test_the_limits_are_those_of_the_configuration():
    assert caption_problem(GOOD[0], STRICT) == "expected 20 to 250 words, got 11"
    assert caption_problem(GOOD[3], STRICT) == ""
    short = STRICT.model_copy(update={"max_words": 21})
    assert caption_problem(GOOD[3], short) == "expected 20 to 21 words, got 23"


@pytest.mark.parametrize("part", ["<a", "\n", " '", 'a "', ". ", "a-", "x\n\n", "I "])
def test_long_nonsense_is_refused_in_no_time(part):
    began = time.process_time()
    assert caption_problem(part * (200_000 // len(part)), CONFIG)
    assert time.process_time() - began < 4
