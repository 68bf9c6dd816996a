import torch

from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import (
    KEY_STREAM,
    BidirectionalView,
    block_of_tokens,
    path_table,
)
from tests.worlds.small_models import small_model_config

CONFIG = small_model_config()


def test_every_token_has_the_block_of_its_latent_and_sinks_block_0():
    assert block_of_tokens([0, 1, 1], 2).tolist() == [0, 0, 1, 1, 1, 1]
    assert block_of_tokens([3], 1, sinks=2).tolist() == [0, 0, 3]


def test_keys_come_from_the_stream_that_is_named_first():
    assert KEY_STREAM == {
        "video_self": "video",
        "audio_self": "audio",
        "audio_to_video": "audio",
        "video_to_audio": "video",
    }


def test_video_turns_in_space_and_time_and_across_the_streams_in_time_alone():
    assert path_table(CONFIG, "video_self").horizons == (20, 2048, 2048)
    assert path_table(CONFIG, "video_self").stream == CONFIG.video
    for pathway in ("audio_self", "audio_to_video", "video_to_audio"):
        table = path_table(CONFIG, pathway)
        assert (table.horizons, table.stream) == ((20,), CONFIG.audio)


def test_a_whole_clip_attends_to_all_of_itself_without_sinks():
    view = BidirectionalView(CONFIG, PerStream(2, 3), (2, 5))
    assert view.sinks == 0
    assert [columns.of_token.tolist() for columns in view.columns] == [[0] * 20, [0] * 3]
    assert [columns.counts for columns in view.columns] == [(20,), (3,)]
    assert view.rotations.video.within.cos.shape == (20, 2, 8)
    assert view.rotations.video.across.cos.shape == (20, 2, 4)
    assert view.rotations.audio.within.cos.shape == (3, 2, 4)
    keys, values = torch.randn(2, 1, 2, 3, 4)
    read = view.read("audio_self", 0, keys, values)
    assert read.keys is keys
    assert read.values is values
    assert read.mask is None
