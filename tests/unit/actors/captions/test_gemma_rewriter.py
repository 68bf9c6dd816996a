import pytest
import torch

from actors.captions.caption_rewriter import CaptionRewriter
from actors.captions.endpoint_rewriter import EndpointRewriter
from actors.captions.gemma_rewriter import GemmaRewriter
from infra.errors import ConfigError, MachineError
from infra.presets import load_preset
from tests.worlds.openai_server import KEY, LEARNT, MODEL, openai_server, write_gemma

pytest.importorskip("transformers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

# Of several lengths: the shorter ones are padded. The last two are none that the model has learnt.
CAPTIONS = [*LEARNT, "waves", "blue beacon, twice, high, high, high, high, high, high tone"]
COMPLAINT = "expected 4 to 200 words, got 3"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    base = load_preset("tiny").data.rewriter
    update = {"kind": "gemma", "max_new_tokens": 24, "timeout_s": 60.0, "concurrency": 3}
    config = base.model_copy(update=update)
    folder = write_gemma(tmp_path_factory.mktemp("gemma"), config)
    return config.model_copy(update={"model": str(folder)})


@pytest.fixture(scope="module")
def rewriter(config):
    return GemmaRewriter.load(config)


def rewrite_all(rewriter: CaptionRewriter, captions, complaints=()):
    return rewriter.rewrite(captions, range(len(captions)), complaints)


def test_captions_become_what_the_model_has_learnt(rewriter):
    answers = rewrite_all(rewriter, [*LEARNT])
    assert [answer.text for answer in answers] == [*LEARNT.values()]
    assert not any(answer.error for answer in answers)


def test_a_caption_does_not_depend_on_its_neighbours(rewriter):
    together = rewrite_all(rewriter, CAPTIONS)
    assert [rewrite_all(rewriter, [caption])[0] for caption in CAPTIONS] == together
    assert len({answer.text for answer in together}) > 3


def test_the_same_model_behind_a_server_gives_the_same_answers(rewriter, config, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    with openai_server(tmp_path, config.model) as server:
        update = {"url": server.url, "model": MODEL, "api_key_file": str(key_file)}
        endpoint = EndpointRewriter(config.model_copy(update=update))
        assert rewrite_all(endpoint, CAPTIONS) == rewrite_all(rewriter, CAPTIONS)
        complaints = ["", COMPLAINT, COMPLAINT, "", COMPLAINT]
        answers = rewrite_all(endpoint, CAPTIONS, complaints)
        assert answers == rewrite_all(rewriter, CAPTIONS, complaints)
        assert answers != rewrite_all(rewriter, CAPTIONS)


def test_an_answer_that_is_cut_off_says_so(config):
    short = GemmaRewriter.load(config.model_copy(update={"max_new_tokens": 5}))
    (answer,) = rewrite_all(short, [next(iter(LEARNT))])
    assert answer.text == "A red disc flashes twice"
    assert "at most 5 tokens" in answer.error


def test_without_a_chat_template_the_prompt_is_plain_text(config):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(config.model)
    words.chat_template = None
    plain = GemmaRewriter(AutoModelForCausalLM.from_pretrained(config.model), words, config)
    together = rewrite_all(plain, CAPTIONS)
    assert [rewrite_all(plain, [caption])[0] for caption in CAPTIONS] == together


@pytest.mark.parametrize(("own", "expected"), [("<pad>", "<pad>"), (None, "<eos>")])
def test_a_tokenizer_without_padding_pads_with_its_end_token(config, own, expected):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(config.model)
    words.pad_token = own
    words.eos_token = "<eos>"
    model = AutoModelForCausalLM.from_pretrained(config.model)
    GemmaRewriter(model, words, config)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (words.pad_token, words.padding_side) == (expected, "left")


@pytest.mark.parametrize("room", [2, 0])
def test_a_batch_that_does_not_fit_is_tried_in_halves(config, room):
    from transformers import AutoTokenizer, Gemma3ForCausalLM

    class SmallMemory(Gemma3ForCausalLM):
        """A model on a device with room for `room` captions."""

        def forward(self, input_ids, **others):
            if len(input_ids) > room:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")
            return super().forward(input_ids, **others)

    words = AutoTokenizer.from_pretrained(config.model)
    small = GemmaRewriter(SmallMemory.from_pretrained(config.model), words, config)
    if room:
        answers = rewrite_all(small, [*LEARNT])
        assert [answer.text for answer in answers] == [*LEARNT.values()]
    else:
        with pytest.raises(MachineError, match=r"got none left \(CUDA out of memory\.\); give"):
            rewrite_all(small, [*LEARNT])


@pytest.mark.parametrize(
    ("model", "expected"), [(None, "got null"), ("/nowhere", "got nothing"), ("", "config.json")]
)
def test_a_folder_without_a_model_is_named(config, tmp_path, model, expected):
    place = str(tmp_path) if model == "" else model
    with pytest.raises(ConfigError, match=r"data\.rewriter\.model") as caught:
        GemmaRewriter.load(config.model_copy(update={"model": place}))
    assert expected in str(caught.value)


def test_a_folder_without_a_tokenizer_is_named(config, tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(config.model).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"expected tokenizer\.json"):
        GemmaRewriter.load(config.model_copy(update={"model": str(tmp_path)}))
