"""Pairs form, are lent, and dissolve; nothing of an old pair reaches a new one."""

import time

import pytest

from serve.pairs.pair_registry import Address, PairRegistry

TIMEOUT_S = 10.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(clock):
    return PairRegistry(TIMEOUT_S, clock)


def beat_video(registry, replica="v1", epoch=None):
    return registry.beat("video", replica, Address("127.0.0.1", 4000), epoch)


def beat_audio(registry, replica="a1", epoch=None):
    return registry.beat("audio", replica, None, epoch)


def joined_pair(registry, video="v1", audio="a1"):
    beat_video(registry, video)
    epoch = beat_audio(registry, audio).epoch
    beat_video(registry, video, epoch)
    beat_audio(registry, audio, epoch)
    return epoch


def test_a_video_and_an_audio_replica_become_a_pair_with_one_rendezvous(registry):
    assert beat_video(registry) is None
    audio = beat_audio(registry)
    video = beat_video(registry)
    assert audio.rendezvous == video.rendezvous == Address("127.0.0.1", 4000)
    assert (video.rank, audio.rank) == (0, 1)
    assert video.epoch == audio.epoch


def test_two_video_replicas_do_not_pair(registry):
    assert beat_video(registry, "v1") is None
    assert beat_video(registry, "v2") is None


def test_a_pair_is_lent_only_when_both_halves_have_joined(registry):
    beat_video(registry)
    epoch = beat_audio(registry).epoch
    assert registry.lease("gateway") is None
    beat_video(registry, epoch=epoch)
    assert registry.lease("gateway") is None
    beat_audio(registry, epoch=epoch)
    assert registry.lease("gateway").members == {"video": "v1", "audio": "a1"}


def test_a_replica_with_both_streams_is_a_pair_by_itself(registry):
    place = registry.beat("both", "c1", None, None)
    registry.beat("both", "c1", None, place.epoch)
    assert registry.lease("gateway").members == {"both": "c1"}


def another_registry(clock):
    time.sleep(0.01)  # epochs begin with the time, in ms
    return PairRegistry(TIMEOUT_S, clock)


def test_a_registry_that_starts_anew_keeps_the_pairs_that_are_there(registry, clock):
    epoch = joined_pair(registry)
    anew = another_registry(clock)
    assert beat_video(anew, epoch=epoch) is None
    assert anew.lease("gateway") is None
    places = [beat_audio(anew, epoch=epoch), beat_video(anew, epoch=epoch)]
    assert [place.epoch for place in places] == [epoch, epoch]
    assert [place.rank for place in places] == [1, 0]
    lease = anew.lease("gateway")
    assert (lease.epoch, lease.members) == (epoch, {"video": "v1", "audio": "a1"})
    anew.dissolve(epoch)
    assert beat_video(anew) is None
    assert beat_audio(anew).epoch > epoch


def test_a_registry_that_starts_anew_does_not_wait_for_a_partner_that_died(registry, clock):
    epoch = joined_pair(registry)
    anew = another_registry(clock)
    assert beat_video(anew, epoch=epoch) is None
    assert beat_audio(anew, "a2") is None  # the video half may still be somebody's
    clock.now += TIMEOUT_S + 1
    beat_video(anew, epoch=epoch)
    assert beat_audio(anew, "a2").epoch > epoch


def test_a_restarted_replica_gets_a_new_epoch_and_the_old_lease_leads_nowhere(registry, clock):
    old = joined_pair(registry)
    registry.lease("gateway")
    clock.now += TIMEOUT_S + 1
    registry.renew("gateway")
    beat_video(registry)
    place = beat_audio(registry, "a2")
    assert place.epoch > old
    beat_video(registry, epoch=old)  # still on its way out of the old partnership
    beat_audio(registry, "a2", place.epoch)
    assert registry.lease("gateway") is None
    beat_video(registry, epoch=place.epoch)
    assert registry.lease("gateway").members["audio"] == "a2"


def test_a_dissolved_pair_forms_anew_and_a_late_complaint_changes_nothing(registry):
    old = joined_pair(registry)
    lease = registry.lease("gateway")
    registry.dissolve(lease.epoch)
    assert registry.lease("gateway") is None
    new = joined_pair(registry)
    assert new > old
    registry.dissolve(lease.epoch)
    assert registry.lease("gateway").epoch == new


def test_a_member_of_a_failed_pair_is_not_paired_before_it_reports_in(registry):
    lease = joined_pair(registry) and registry.lease("gateway")
    registry.dissolve(lease.epoch)
    assert beat_video(registry) is None
    beat_audio(registry, "a2")
    registry.beat("video", "v1", Address("127.0.0.1", 4000), None)
    (state,) = registry.states()
    assert state.members == {"video": "v1", "audio": "a2"}


def test_leases_go_to_the_least_used_pair(registry):
    joined_pair(registry)
    joined_pair(registry, "v2", "a2")
    leases = [registry.lease("gateway") for _ in range(4)]
    assert sorted(lease.pair for lease in leases) == ["v1-a1"] * 2 + ["v2-a2"] * 2
    registry.release(leases[0].lease_id)
    assert registry.lease("gateway").pair == leases[0].pair


def test_two_gateways_do_not_share_a_pair(registry):
    joined_pair(registry)
    lease = registry.lease("one")
    assert registry.lease("two") is None
    registry.release(lease.lease_id)
    assert registry.lease("two") is not None


def test_a_gateway_that_vanished_loses_its_pairs(registry, clock):
    epoch = joined_pair(registry)
    registry.lease("gateway")
    for _ in range(3):
        clock.now += TIMEOUT_S / 2
        beat_video(registry, epoch=epoch)
        beat_audio(registry, epoch=epoch)
    assert joined_pair(registry) > epoch


def test_states_are_what_there_is(registry):
    epoch = joined_pair(registry)
    registry.lease("gateway")
    (state,) = registry.states()
    assert (state.epoch, state.ready, state.leases) == (epoch, True, 1)


def test_silence_up_to_the_timeout_is_no_absence(registry, clock):
    epoch = joined_pair(registry)
    registry.lease("gateway")
    clock.now += TIMEOUT_S
    (state,) = registry.states()
    assert (state.epoch, state.leases) == (epoch, 1)
    clock.now += 0.001
    assert registry.states() == []


def test_each_partnership_has_the_next_number(registry):
    epoch = joined_pair(registry)
    registry.dissolve(epoch)
    assert joined_pair(registry) == epoch + 1
