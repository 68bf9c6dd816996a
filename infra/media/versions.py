"""Which libraries decide what is decoded: another of them may give other pictures and sound."""

import av


def decoding_versions() -> dict[str, str]:
    """Versions of PyAV and of the FFmpeg libraries that it brings, by name."""
    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info), **libraries}
