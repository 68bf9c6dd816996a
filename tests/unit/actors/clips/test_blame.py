"""A clip is condemned for what is wrong with it, never for what is wrong with the machine."""

import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from actors.clips.blame import StoredClip, clip_fault, error_line
from actors.clips.clip_decoder import ClipDecoder
from actors.clips.clip_surveyor import ClipSurveyor
from infra.errors import MachineError, MediaError, StoreError
from infra.presets import load_preset
from infra.storage.object_store import confined_store
from tests.worlds.beacon_clips import write_beacon_clip
from tests.worlds.failing_disk import FailingDisk, break_disk, heal_disk
from tests.worlds.small_machine import limited

ROOT = Path(__file__).resolve().parents[4]
RATE = 16_000
# Which operation fails how, where, and what the line says.
FAULTS = {
    "a full scratch disk": ("write", "ENOSPC", "scratch", "room to write"),
    "a quota": ("write", "EDQUOT", "scratch", "room to write"),
    "too many files": ("open", "EMFILE", "clips", "one more file to open"),
    "a bad sector": ("read", "EIO", "clips", "a disk or a mount that works"),
    "a stale mount": ("open", "ESTALE", "clips", "a disk or a mount that works"),
    "a dead mount": ("read", "ENOTCONN", "clips", "a disk or a mount that works"),
}
STAGES = ("survey", "decode")


def data():
    return load_preset("tiny", ["data.seconds=1"]).data


def actors(folder):
    """What works on a clip of a folder, by stage."""
    decoder = ClipDecoder(data(), str(folder), RATE)
    return {
        "survey": ClipSurveyor(data(), str(folder)).survey,
        "decode": lambda name, offset=-1, size=0: decoder.decode(name, 0.0, offset, size),
    }


def write_clips(folder):
    """A clip, and the same in a tar; where its bytes are."""
    folder.mkdir()
    write_beacon_clip(folder / "good.mp4")
    with tarfile.open(folder / "pack.tar", "w") as tar:
        tar.add(folder / "good.mp4", "a.mp4")
    with tarfile.open(folder / "pack.tar") as tar:
        member = tar.getmember("a.mp4")
    return [("good.mp4",), ("pack.tar/a.mp4", member.offset_data, member.size)]


def outcomes_on_a_failing_disk(folder):
    """The end of each stage for each clip under each fault, and after all of them."""
    clips = write_clips(folder)
    tempfile.gettempdir()  # would be another one, if this one were full already
    ends = {}
    for stage in STAGES:
        for fault, rule in FAULTS.items():
            work = actors(folder)[stage]  # a new one, which has no copy yet
            # What is on its own disk is not copied.
            touched = clips[1:] if rule[2] == "scratch" else clips
            break_disk(*rule[:3])
            ends[f"{stage}: {fault}"] = [_end_of(work, clip) for clip in touched]
            heal_disk()
        ends[stage] = [_end_of(work, clip) for clip in clips]
    return ends


def _end_of(work, clip):
    try:
        return work(*clip).outcome
    except MachineError as error:
        return str(error)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """`outcomes_on_a_failing_disk` of a process of its own."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "scratch").mkdir()
    disk = FailingDisk(folder)
    code = (
        "import json, sys, pathlib; from tests.unit.actors.clips import test_blame as test;"
        " print(json.dumps(test.outcomes_on_a_failing_disk(pathlib.Path(sys.argv[1]))))"
    )
    environment = os.environ | disk.environment | {"TMPDIR": str(folder / "scratch")}
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "clips"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((folder / "scratch").iterdir()) == []
    return json.loads(done.stdout)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_failing_disk_condemns_no_clip_and_when_it_works_again_the_clip_is_good(
    ends, stage, fault
):
    for line in ends[f"{stage}: {fault}"]:
        assert line.startswith(f"expected {FAULTS[fault][3]}"), line
        assert "\n" not in line
        assert line.endswith("then run the same command again: what is done stays done")
    assert ends[stage] == ["ok", "ok"]


@pytest.fixture
def folder(tmp_path):
    clips = write_clips(tmp_path / "clips")
    return tmp_path / "clips", clips


@pytest.mark.parametrize("stage", STAGES)
def test_a_process_without_room_for_a_file_condemns_no_clip(folder, stage):
    place, clips = folder
    work = actors(place)[stage]
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    # The clip itself is opened, and then what decodes it needs more.
    for room in range(4):
        with limited(resource.RLIMIT_NOFILE, open_files - 1 + room):  # noqa: SIM117
            with pytest.raises(MachineError, match=r"one more file.*Too many open files"):
                work(*clips[0])
    assert work(*clips[0]).outcome == "ok"


@pytest.mark.parametrize("stage", STAGES)
def test_a_copy_over_the_largest_size_of_a_file_condemns_no_clip(folder, stage, tmp_path):
    place, clips = folder
    work = actors(place)[stage]
    with limited(resource.RLIMIT_FSIZE, 1000):  # noqa: SIM117
        with pytest.raises(MachineError, match=r"room to write.*File too large"):
            work(*clips[1])
    assert work(*clips[1]).outcome == "ok"


def moved_away(folder):
    folder.rename(folder.with_name("elsewhere"))


def unmounted(folder):
    moved_away(folder)
    folder.mkdir()


def a_file_instead(folder):
    moved_away(folder)
    folder.touch()


@pytest.mark.parametrize(
    ("loss", "state"), [(moved_away, "none"), (unmounted, "an empty one"), (a_file_instead, "none")]
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_source_that_is_lost_condemns_no_clip(folder, stage, loss, state):
    place, clips = folder
    work = actors(place)[stage]
    loss(place)
    for clip in clips:
        with pytest.raises(MachineError) as lost:
            work(*clip)
        assert str(lost.value) == (
            f"expected the folder {place} with {clip[0]}, which was there before, got {state};"
            " mount or copy it again, then run the same command again: what is done stays done"
        )


@pytest.mark.parametrize("loss", [moved_away, unmounted])
def test_a_folder_below_the_source_may_be_the_mount(folder, loss):
    place, _ = folder
    write_clips(place / "disk")
    surveyor = ClipSurveyor(data(), str(place))
    loss(place / "disk")
    with pytest.raises(MachineError, match=f"expected the folder {place}/disk with disk/good.mp4"):
        surveyor.survey("disk/good.mp4")


@pytest.mark.parametrize("stage", STAGES)
def test_a_clip_that_alone_is_gone_is_its_own_fault(folder, stage):
    place, _ = folder
    (place / "good.mp4").unlink()
    end = actors(place)[stage]("good.mp4")
    assert (end.outcome, end.reason) == ("quarantined", "unreadable")
    assert "No such file" in end.error


def test_whatever_a_library_raises_over_a_bad_clip_is_the_clip_s(folder):
    clip = StoredClip(confined_store(folder[0]), "good.mp4")
    assert clip_fault(MediaError("bad"), clip, None) == ("unreadable", "bad")
    assert clip_fault(OSError("bad"), clip, None) == ("unreadable", "bad")
    assert clip_fault(KeyError("bad"), clip, None) == ("failed", "KeyError: 'bad'")


def test_what_is_no_clip_s_fault_ends_the_run(folder):
    clip = StoredClip(confined_store(folder[0]), "good.mp4")
    for error in (StoreError("no key"), MachineError("full")):
        with pytest.raises(type(error)) as raised:
            clip_fault(error, clip, None)
        assert raised.value is error
    with pytest.raises(MachineError, match=r"start a process for a decoder.*ulimit -u"):
        clip_fault(BlockingIOError(11, "Resource temporarily unavailable"), clip, None)
    for error in (MemoryError(), OSError(28, "No space left on device")):
        with pytest.raises(MachineError):
            clip_fault(error, clip, None)


def test_an_error_names_the_clip_and_not_its_copy_on_one_line():
    error = OSError("cannot read /tmp/copy.mp4:\n  no such\tfile")
    assert error_line(error, Path("/tmp/copy.mp4"), "a.mp4") == "cannot read a.mp4: no such file"
    assert error_line(error, None, "a.mp4") == "cannot read /tmp/copy.mp4: no such file"
