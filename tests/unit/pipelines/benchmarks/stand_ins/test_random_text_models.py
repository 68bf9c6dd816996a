"""Random models of the text have a tokenizer that fits them."""

import pytest

from pipelines.benchmarks.stand_ins.random_text_models import word_tokenizer

pytest.importorskip("transformers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity


def test_each_word_is_a_token_that_nobody_knows() -> None:
    words = word_tokenizer()
    assert words("rain on a roof").input_ids == [words.unk_token_id] * 4
    special = (words.pad_token_id, words.eos_token_id, words.bos_token_id, words.unk_token_id)
    assert special == (0, 1, 2, 3)
    assert len(words) == 4
