"""Which files are clips by their names, and which might be but are not read."""

import posixpath

from infra.dataset.reasons import Reason

MEDIA_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")
ARCHIVE = ".tar"
_OTHER_ARCHIVES = (
    *(".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".7z", ".rar"),
)
_OTHER_MEDIA = (
    *(".mpg", ".mpeg", ".m2v", ".m2ts", ".mts", ".vob", ".mxf", ".flv", ".f4v"),
    *(".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".divx", ".rm"),
)


def suffix_of(name: str) -> str:
    """The last suffix, in small letters."""
    return posixpath.splitext(name)[1].lower()


def with_suffix(name: str, suffix: str) -> str:
    """The name with another suffix in place of its last one."""
    return posixpath.splitext(name)[0] + suffix


def unread(name: str) -> tuple[Reason, str] | None:
    """Why a file that may hold clips is not read; None for clips and for all that is no matter."""
    suffix = suffix_of(name)
    if suffix in _OTHER_ARCHIVES:
        return (
            Reason.UNSUPPORTED_ARCHIVE,
            f"expected clips as files or in a plain {ARCHIVE}, got {name}; unpack it",
        )
    if suffix in _OTHER_MEDIA:
        return (
            Reason.UNSUPPORTED_FORMAT,
            f"expected a clip ({' '.join(MEDIA_SUFFIXES)}), got {name}; convert it",
        )
    return None
