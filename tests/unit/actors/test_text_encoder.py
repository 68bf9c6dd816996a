import numpy as np

from actors.text_encoder import CaptionEncoder
from infra.presets import load_preset


def test_each_caption_gets_features_for_both_streams():
    captions = np.array(["a red disc", "a blue disc"], dtype=object)
    batch = CaptionEncoder(load_preset("tiny"))({"caption": captions})
    for name in ("video_text", "audio_text"):
        assert batch[name].shape == (2, 24, 64)
        assert batch[name].dtype == np.float32
        assert (batch[name][0] != batch[name][1]).any()
    assert list(batch["caption"]) == list(captions)
