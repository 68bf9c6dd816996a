"""What Prometheus reads: names, labels and values, counted as things happen."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.sessions.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics(lambda: 3)


def samples(metrics, pairs_ready=1):
    """Values by name and labels."""
    families = text_string_to_metric_families(metrics.text(pairs_ready).decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_gauges_are_as_they_are_when_prometheus_asks(metrics):
    read = samples(metrics, pairs_ready=2)
    assert read["omniforcing_open_streams",] == 3
    assert read["omniforcing_pairs_ready",] == 2
    assert samples(metrics, pairs_ready=0)["omniforcing_pairs_ready",] == 0


def test_a_block_counts_at_once_and_falls_into_its_buckets(metrics):
    metrics.count_block(0.3)
    metrics.count_block(1.5)
    read = samples(metrics)
    assert read["omniforcing_blocks_total",] == 2
    assert read["omniforcing_block_seconds_count",] == 2
    assert read["omniforcing_block_seconds_sum",] == pytest.approx(1.8)
    buckets = ("0.05", "0.1", "0.25", "0.5", "0.8", "1.0", "2.0", "5.0", "+Inf")
    counts = [read["omniforcing_block_seconds_bucket", bound] for bound in buckets]
    assert counts == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_first_chunk_falls_into_its_buckets(metrics):
    metrics.count_first_chunk(0.6)
    read = samples(metrics)
    assert read["omniforcing_first_chunk_seconds_sum",] == pytest.approx(0.6)
    buckets = ("0.1", "0.25", "0.5", "0.7", "1.0", "2.0", "5.0", "10.0", "+Inf")
    counts = [read["omniforcing_first_chunk_seconds_bucket", bound] for bound in buckets]
    assert counts == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_outcomes_and_refusals_count_by_kind_and_outcomes_begin_at_zero(metrics):
    metrics.count_ended("failed")
    metrics.count_refused(429)
    metrics.count_refused(429)
    read = samples(metrics)
    counts = [read["omniforcing_streams_ended_total", state] for state in ("done", "failed")]
    assert counts == [0, 1]
    assert read["omniforcing_streams_ended_total", "stopped"] == 0
    assert read["omniforcing_streams_refused_total", "429"] == 2
    assert ("omniforcing_streams_refused_total", "503") not in read


def test_two_gateways_in_one_process_count_apart(metrics):
    other = Metrics(lambda: 0)
    metrics.count_block(0.1)
    assert samples(other)["omniforcing_blocks_total",] == 0
