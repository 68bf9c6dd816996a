import av

from infra.media.versions import decoding_versions


def test_all_libraries_that_decode_have_a_version() -> None:
    versions = decoding_versions()
    assert versions["av"] == av.__version__
    assert versions["ffmpeg"] == av.ffmpeg_version_info
    assert {"libavcodec", "libavformat", "libavfilter", "libswscale", "libswresample"} <= set(
        versions
    )
    assert all(text.replace(".", "").isalnum() for text in versions.values())
