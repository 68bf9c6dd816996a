import pytest

from omniforcing_model.per_stream import STREAMS, PerStream


def test_video_comes_before_audio():
    assert STREAMS == ("video", "audio")
    assert tuple(PerStream(1, 2)) == (1, 2)
    assert list(PerStream("v", "a").present()) == [("video", "v"), ("audio", "a")]


def test_a_function_is_applied_to_each_stream_with_its_own_arguments():
    assert PerStream(1, 2).map(lambda x: -x) == PerStream(-1, -2)
    difference = PerStream(5, 7).map(lambda x, y, z: x - y * z, PerStream(1, 2), PerStream(3, 4))
    assert difference == PerStream(2, -1)


def test_holes_stay_holes():
    assert PerStream(None, 2).map(lambda x, y: x + y, PerStream(9, 3)) == PerStream(None, 5)
    assert PerStream(1, None).map(lambda x: x + 1) == PerStream(2, None)
    assert list(PerStream(None, 2).present()) == [("audio", 2)]
    assert list(PerStream(0, None).present()) == [("video", 0)]


def test_all_arguments_have_both_streams():
    with pytest.raises(ValueError, match="zip"):
        PerStream(1, 2).map(lambda x, y: x, (1,))
