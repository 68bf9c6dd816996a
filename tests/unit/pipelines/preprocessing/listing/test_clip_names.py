"""Which clip a table means, however it writes its name."""

import pytest

from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.clip_names import FolderNames, Likenesses


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b.mp4", "a/b.mp4"),
        ("./a//c/../b.mp4", "a/b.mp4"),
        ("/data/clips/a.mp4", "a.mp4"),
        ("/data/../data/clips/x/a.mp4", "x/a.mp4"),
        ("file:///data/clips/a%20b.mp4", "a b.mp4"),
        ("FILE:///data/clips/a.mp4", "a.mp4"),
        ("/data/clips/../other/a.mp4", None),
        ("/data/clips", None),
        ("/data/clips2/a.mp4", None),
        ("/data/clips/a\0.mp4", None),
        ("s3://data/clips/a.mp4", None),
        ("file:///etc/passwd", None),
        ("..", None),
        (".", None),
    ],
)
def test_a_name_is_relative_to_a_folder_of_this_machine(name, inside):
    assert FolderNames(ObjectStore("/data/clips")).inside(name) == inside


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a.mp4", "a.mp4"),
        ("s3://bucket/clips/a%20b.mp4", "a%20b.mp4"),
        ("s3://bucket/clips/x/../a.mp4", "a.mp4"),
        ("s3://bucket/clips/../a.mp4", None),
        ("s3://bucket/other/a.mp4", None),
        ("s3://bucket2/clips/a.mp4", None),
        ("file:///clips/a.mp4", None),
        ("/clips/a.mp4", None),
    ],
)
def test_a_name_is_relative_to_a_folder_of_a_bucket(name, inside):
    assert FolderNames(ObjectStore("s3://bucket/clips/")).inside(name) == inside


def test_one_clip_of_the_same_spelling_is_meant_and_of_several_none():
    listed = ["a/b.mp4", "A/B.mp4", "x\\y.mp4", "x/y.mp4"]
    alike = Likenesses(["a\\b.mp4", "a\\B.mp4", " x/y.mp4"], listed)
    assert [alike.same(name) for name in ("a\\b.mp4", "a\\B.mp4", " x/y.mp4")] == [
        "a/b.mp4",
        None,
        None,
    ]


def test_the_nearest_likeness_is_told():
    listed = ["deep/Dance.mp4", "dance.mov", "DANCE.mp4", "other.mp4"]
    alike = Likenesses(["Dance.MP4", "x/dance.mp4", "dance.webm", "gone.mp4"], listed)
    assert alike.like("Dance.MP4") == "DANCE.mp4"
    assert alike.like("x/dance.mp4") == "DANCE.mp4"
    assert alike.like("dance.webm") == "DANCE.mp4"
    assert alike.like("gone.mp4") is None
