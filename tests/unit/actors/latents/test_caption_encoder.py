import numpy as np
import pytest

from actors.latents.caption_encoder import CaptionEncoder
from infra.presets import load_preset
from omniforcing_model.codecs.tiny.text_encoder import TinyTextEncoder

FEATURES = ("video_text", "audio_text")


@pytest.fixture(scope="module")
def encoder():
    return CaptionEncoder(load_preset("tiny"))


def rows(*captions, outcomes=None):
    return {
        "caption": np.array(captions, dtype=object),
        "text_outcome": np.array(outcomes or ["ok"] * len(captions), dtype=object),
    }


def test_each_caption_gets_features_for_both_streams(encoder):
    batch = encoder(rows("a red disc", "a blue disc"))
    for name in FEATURES:
        assert batch[name].shape == (2, 24, 64)
        assert batch[name].dtype == np.float32
        assert (batch[name][0] != batch[name][1]).any()
    assert list(batch["caption"]) == ["a red disc", "a blue disc"]


def test_features_do_not_depend_on_the_neighbours(encoder):
    together = encoder(rows("a red disc", "a blue disc flashes twice a second"))
    alone = encoder(rows("a red disc"))
    for name in FEATURES:
        assert (together[name][0] == alone[name][0]).all()


@pytest.mark.parametrize("outcomes", [["quarantined", "ok"], ["", "quarantined"]])
def test_rows_without_a_caption_get_nothing_of_the_same_shape(encoder, outcomes):
    batch = encoder(rows("", "a blue disc", outcomes=outcomes))
    for name in FEATURES:
        assert batch[name].shape == (2, 24, 64)
        assert not batch[name][0].any()
        assert batch[name][1].any() == (outcomes[1] == "ok")


class Overflowing(TinyTextEncoder):
    """Its numbers grow too large for one caption, as those of half precision may."""

    def encode(self, prompts):
        features = super().encode(prompts)
        return features.map(lambda value: value / float("loud" not in prompts[0]))


def test_a_caption_whose_features_are_not_finite_is_quarantined_alone():
    encoder = CaptionEncoder(load_preset("tiny"), Overflowing(24, 64))
    batch = rows("a quiet disc", "a loud disc", "a red disc")
    batch |= {name: np.array(["", "", ""], dtype=object) for name in ("text_reason", "text_error")}
    given = {name: values.copy() for name, values in batch.items()}
    answer = encoder(batch)
    assert list(answer["text_outcome"]) == ["ok", "quarantined", "ok"]
    assert list(answer["text_reason"]) == ["", "caption_not_encodable", ""]
    assert "NaN or infinity" in answer["text_error"][1]
    assert [bool(answer["video_text"][row].any()) for row in range(3)] == [True, False, True]
    assert np.isfinite(answer["audio_text"]).all()
    assert all((batch[name] == values).all() for name, values in given.items())
