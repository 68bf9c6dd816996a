import numpy as np
import pytest

from actors.caption_rewriter import CaptionRewriting, GrammarRewriter
from omniforcing_model.beacon_world import parse_caption

TERSE = "red beacon, 2 Hz, high tone"


def strings(*values):
    return np.array(values, dtype=object)


def test_a_terse_caption_becomes_a_sentence_with_the_same_meaning():
    sentence = GrammarRewriter().rewrite(TERSE, seed=4)
    assert sentence != TERSE
    assert parse_caption(sentence) == parse_caption(TERSE)


@pytest.mark.parametrize("foreign", ["waves roll onto a beach", "a red disc", "红色的圆盘"])
def test_a_caption_of_another_world_is_not_understood(foreign):
    assert GrammarRewriter().rewrite(foreign, seed=0) is None


def test_what_is_not_understood_passes_through_and_is_marked():
    rows = {"caption_raw": strings(TERSE, "waves"), "clip_digest": strings("a", "b")}
    batch = CaptionRewriting("grammar")(rows)
    assert batch["rewritten"].tolist() == [True, False]
    assert batch["caption"][1] == "waves"
    assert list(batch["caption_raw"]) == [TERSE, "waves"]


def test_the_words_depend_on_the_clip_and_on_nothing_else():
    digests = [f"sha256:{number}" for number in range(12)]
    rows = {"caption_raw": strings(*[TERSE] * 12), "clip_digest": strings(*digests)}
    captions = list(CaptionRewriting("grammar")(rows)["caption"])
    assert len(set(captions)) > 2
    alone = {"caption_raw": strings(TERSE), "clip_digest": strings(digests[5])}
    assert CaptionRewriting("grammar")(alone)["caption"][0] == captions[5]
