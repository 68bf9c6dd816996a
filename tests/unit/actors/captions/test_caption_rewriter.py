import numpy as np
import pytest

from actors.captions.caption_rewriter import GrammarRewriter, RewriteCaptions
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.beacons.world import parse_caption
from tests.worlds.openai_server import LEARNT, MODEL, openai_server, write_gemma

TERSE = "red beacon, 2 Hz, high tone"
CONFIG = load_preset("tiny").data.rewriter
ANSWER = "A red disc flashes twice a second with a high beep."
SILENT = "A red disc is on a dark background in front of the camera."
ADDED = ("caption", "rewritten", "text_outcome", "text_reason", "text_error")


def strings(*values):
    return np.array(values, dtype=object)


def rows(*captions, digests=None, **columns):
    """Rows that need a text; `columns` say otherwise."""
    batch = {
        "caption_raw": strings(*captions),
        "clip_digest": strings(*(digests or [f"sha256:{n}" for n in range(len(captions))])),
        "needs_text": np.full(len(captions), True),
        "outcome": strings(*["ok"] * len(captions)),
    }
    return batch | columns


def outcomes(batch):
    """What was added, row by row."""
    return list(zip(*(batch[name].tolist() for name in ADDED), strict=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with openai_server(tmp_path_factory.mktemp("server"), key="") as running:
        yield running


@pytest.fixture
def endpoint(server):
    def make(**changes):
        settings = {"kind": "endpoint", "url": server.url, "model": MODEL, "retries": 0}
        return RewriteCaptions(CONFIG.model_copy(update=settings | changes))

    return make


def test_a_terse_caption_becomes_a_sentence_with_the_same_meaning():
    (sentence,) = GrammarRewriter().rewrite([TERSE], [4])
    assert sentence.text != TERSE
    assert parse_caption(sentence.text) == parse_caption(TERSE)


@pytest.mark.parametrize("foreign", ["waves roll onto a beach", "a red disc", "红色的圆盘"])
def test_a_caption_of_another_world_is_kept(foreign):
    assert GrammarRewriter().rewrite([foreign], [0]) == [(foreign, "", True)]


def test_what_is_not_understood_passes_through_and_is_marked():
    batch = RewriteCaptions(CONFIG)(rows(TERSE, "waves"))
    assert batch["rewritten"].tolist() == [True, False]
    assert batch["caption"][1] == "waves"
    assert batch["text_outcome"].tolist() == ["ok", "ok"]
    assert list(batch["caption_raw"]) == [TERSE, "waves"]


def test_a_sentence_of_the_grammar_is_checked_too():
    narrow = RewriteCaptions(CONFIG.model_copy(update={"min_words": 30}))
    batch = narrow(rows(TERSE, "waves"))
    assert batch["text_outcome"].tolist() == ["quarantined", "ok"]
    assert batch["text_reason"].tolist() == ["caption_rejected", ""]


def test_a_bad_wording_of_the_grammar_gives_way_to_another():
    # Some of the wordings have more than 11 words: a second draw saves most of them.
    narrow = CONFIG.model_copy(update={"max_words": 11})
    digests = [f"sha256:{number}" for number in range(40)]
    batch = RewriteCaptions(narrow)(rows(*[TERSE] * 40, digests=digests))
    loose = RewriteCaptions(CONFIG)(rows(*[TERSE] * 40, digests=digests))
    fitting = sum(len(caption.split()) <= 11 for caption in loose["caption"])
    assert fitting < (batch["text_outcome"] == "ok").sum() < 40


def test_the_words_depend_on_the_clip_and_on_nothing_else():
    digests = [f"sha256:{number}" for number in range(12)]
    together = RewriteCaptions(CONFIG)(rows(*[TERSE] * 12, digests=digests))
    captions = list(together["caption"])
    assert len(set(captions)) > 2
    alone = RewriteCaptions(CONFIG)(rows(TERSE, digests=digests[5:6]))
    assert alone["caption"][0] == captions[5]


def test_rows_that_need_no_text_or_have_ended_pass_untouched():
    states = strings("ok", "ok", "filtered")
    needs = np.array([True, False, True])
    batch = RewriteCaptions(CONFIG)(rows(*[TERSE] * 3, needs_text=needs, outcome=states))
    assert outcomes(batch)[1:] == [("", False, "", "", "")] * 2
    assert batch["text_outcome"][0] == "ok"
    assert batch["outcome"].tolist() == ["ok", "ok", "filtered"]


def test_a_batch_without_rows_gets_the_columns():
    batch = RewriteCaptions(CONFIG)(rows())
    assert all(len(batch[name]) == 0 for name in ADDED)
    assert batch["rewritten"].dtype == bool


def test_a_good_answer_becomes_one_line_of_text(endpoint, server):
    server.behave({"say": f"\n{ANSWER.replace(' a ', ' a' + chr(10))} "})
    assert outcomes(endpoint()(rows(TERSE))) == [(ANSWER, True, "ok", "", "")]


def test_a_bad_answer_is_asked_for_again_with_the_complaint_and_another_seed(endpoint, server):
    server.behave({"say": SILENT}, {"say": ANSWER})
    assert outcomes(endpoint()(rows(TERSE))) == [(ANSWER, True, "ok", "", "")]
    first, second = server.record()["requests"]
    assert second["seed"] != first["seed"]
    assert "refused" not in first["messages"][-1]["content"]
    assert "expected what is heard" in second["messages"][-1]["content"]


def test_a_caption_without_a_good_answer_is_quarantined_with_the_reason(endpoint, server):
    server.behave({"say": SILENT, "caption": "waves", "times": -1}, {"say": ANSWER, "times": -1})
    good, bad = outcomes(endpoint()(rows(TERSE, "waves")))
    assert good == (ANSWER, True, "ok", "", "")
    assert bad[:4] == ("", False, "quarantined", "caption_rejected")
    assert bad[4].startswith("expected what is heard, or that it is silent")
    assert bad[4].endswith(SILENT)
    assert len(server.record()["requests"]) == 3


@pytest.mark.parametrize(("letters", "shown"), [(120, "w" * 120), (121, f"{'w' * 120}...")])
def test_a_long_bad_answer_is_shown_in_part(endpoint, server, letters, shown):
    server.behave({"say": "w" * letters, "times": 2})
    ((*_, error),) = outcomes(endpoint()(rows(TERSE)))
    assert error == f"expected 4 to 200 words, got 1: {shown}"


def test_a_back_end_that_failed_once_is_asked_again(endpoint, server):
    server.behave({"status": 500}, {"say": ANSWER})
    assert outcomes(endpoint()(rows(TERSE))) == [(ANSWER, True, "ok", "", "")]
    second = server.record()["requests"][1]
    assert "refused" not in second["messages"][-1]["content"]


def test_a_back_end_that_fails_quarantines_its_captions_alone(endpoint, server):
    server.behave(
        {"status": 500, "caption": "waves", "times": -1, "body": "no"}, {"say": ANSWER, "times": -1}
    )
    good, bad = outcomes(endpoint()(rows(TERSE, "waves")))
    assert good[2] == "ok"
    assert bad[:4] == ("", False, "quarantined", "rewriter_failed")
    assert "got 500 (no)" in bad[4]


def test_an_answer_that_was_cut_off_is_asked_for_again_as_too_long(endpoint, server):
    choice = '{"message": {"content": "A red disc"}, "finish_reason": "length"}'
    server.behave({"body": f'{{"choices": [{choice}]}}', "times": 2})
    ((*_, reason, error),) = outcomes(endpoint()(rows(TERSE)))
    assert reason == "rewriter_failed"
    assert "cut off" in error
    assert error.endswith(": A red disc")
    assert "it was too long" in server.record()["requests"][1]["messages"][-1]["content"]


def test_as_many_captions_as_configured_go_to_the_back_end_at_a_time(endpoint, server):
    server.behave({"say": ANSWER, "times": -1}, delay_s=0.05)
    batch = endpoint(batch=2, concurrency=8)(rows(*[TERSE] * 5))
    assert batch["text_outcome"].tolist() == ["ok"] * 5
    assert server.record()["most_in_flight"] == 2


def test_a_back_end_that_lacks_something_is_refused_at_once(endpoint):
    with pytest.raises(ConfigError, match=r"data\.rewriter\.url"):
        endpoint(url=None)


@pytest.mark.ray
def test_a_pool_of_ray_data_adds_the_same_columns(ray_local, endpoint, server):
    from ray.data import ActorPoolStrategy

    server.behave({"say": ANSWER, "times": -1, "caption": TERSE}, {"say": SILENT, "times": -1})
    batch = rows(TERSE, "waves", TERSE, needs_text=np.array([True, True, False]))
    items = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    config = CONFIG.model_copy(update={"kind": "endpoint", "url": server.url, "model": MODEL})
    pool = ray_local.data.from_items(items).map_batches(
        RewriteCaptions,
        fn_constructor_kwargs={"config": config},
        compute=ActorPoolStrategy(size=1),
        num_cpus=0.5,
    )
    added = [tuple(row[name] for name in ADDED) for row in pool.take_all()]
    assert added == outcomes(RewriteCaptions(config)(batch))
    assert [row[2] for row in added] == ["ok", "quarantined", ""]


@pytest.mark.parity
def test_gemma_rewrites_rows_alike_in_this_process_and_behind_a_server(tmp_path):
    import torch

    threads = torch.get_num_threads()
    config = CONFIG.model_copy(
        update={"kind": "gemma", "max_new_tokens": 24, "timeout_s": 60.0, "batch": 2}
    )
    folder = str(write_gemma(tmp_path / "gemma", config))
    batch = rows(*LEARNT, "waves")
    here = RewriteCaptions(config.model_copy(update={"model": folder}))(batch)
    with openai_server(tmp_path, folder, key="") as server:
        there = {"kind": "endpoint", "url": server.url, "model": MODEL}
        behind = RewriteCaptions(config.model_copy(update=there))(batch)
    torch.set_num_threads(threads)
    assert outcomes(behind) == outcomes(here)
    assert list(here["caption"][:3]) == [*LEARNT.values()]
    assert here["text_outcome"][:3].tolist() == ["ok"] * 3
