"""Every number and word of a demo's page, from small values."""

from infra.dataset.reasons import Reason
from pipelines.demo.report.sections import Pictures, demo_page

DIGEST = "sha256:0123456789abcdef0123"
BLOCK = {"index": 3, "media_s": 2.041, "block_s": 1.1004, "computed_at_s": 0.5, "sent_at_s": 0.52}
SCORES = {
    "av_offset_ms_median": 12.4,
    "rate_accuracy": 0.916,
    "colour_accuracy": 1.0,
    "pitch_accuracy": 0.0,
    "clips": 12,
}


def page(**changes):
    stage = {"name": "stage_2", "steps": 6, "seconds": 31.6, "digest": DIGEST, "reused": False}
    values = {
        "preset": "tiny",
        "seconds": 61.0,
        "phases_s": {"distill": 150.04},
        "dataset": {
            "rows": 5,
            "ok": 2,
            "filtered": {"silence": 1, "dark": 1},
            "quarantined": {"missing_file": 1},
            "dataset": "out/dataset",
            "digest": DIGEST,
        },
        "stages": [stage, stage | {"name": "trajectories", "reused": True}],
        "scores": {"real": SCORES, "stage_3": SCORES},
        "prompt": "a disc",
        "streamed": "the student",
        "stream": {
            "file": "stream.mp4",
            "model": "models:/a",
            "frames": 121,
            "first_chunk_s": 1.2344,
            "fps": 139.6,
            "block_p50_s": 1.1,
            "block_p99_s": 1.2,
            "av_offset_ms": 13.6,
            "blocks": [BLOCK],
        },
        "lineage": [],
        "versions": {"torch": "2"},
        "machine": {"cores": "2"},
    }
    pictures = Pictures({"teacher": b"clip"}, {"stage_1": b"loss"}, b"timeline", b"mp4")
    return demo_page(values | changes, pictures)


def test_the_tiles_are_the_numbers_of_the_stream_and_of_the_demo():
    assert page().tiles == [
        ("First chunk", "1234", "ms"),
        ("Throughput", "140", "frames/s"),
        ("Block p50", "1100", "ms"),
        ("Block p99", "1200", "ms"),
        ("Picture to sound", "14", "ms apart"),
        ("Whole demo", "1:01", "min"),
    ]


def test_a_block_has_its_times():
    assert page().stream.blocks == [("block 3", "2.04", "1100", "0.500", "0.520")]


def test_scores_are_shares_and_only_the_data_is_a_reference():
    shares = ("92%", "100%", "0%")
    assert page().scores == [
        ("Data", True, "12", shares, 12),
        ("Stage III", False, "12", shares, 12),
    ]


def test_a_reused_stage_took_no_seconds():
    assert page().training == [
        ("Stage II", 6, "32", "sha256:0123456789ab"),
        ("Trajectories", 6, "reused", "sha256:0123456789ab"),
    ]


def test_outcomes_are_ordered_by_their_reasons_and_explained():
    outcomes = page().data.outcomes
    assert [line[:2] for line in outcomes] == [
        ("ok", 2),
        ("filtered: dark", 1),
        ("filtered: silence", 1),
        ("quarantined: missing_file", 1),
    ]
    silence, missing = Reason.SILENCE, Reason.MISSING_FILE
    assert [line.words for line in outcomes] == [
        "",
        "",  # of another version
        f"{silence.meaning} {silence.advice}",
        f"{missing.meaning} {missing.advice}",
    ]


def test_pictures_are_titled_by_their_stage():
    assert page().clips == [
        (
            "Teacher",
            "bidirectional, many guided steps",
            b"clip",
            "Teacher: frames, waveform and mel bands",
        )
    ]
    assert page().losses == [("Stage I", "", b"loss", "Losses of stage_1")]


def test_lineage_names_inputs_and_counts_the_clips():
    clips = [
        {"kind": "clip", "name": f"{number}.mp4", "digest": f"sha256:{number}", "inputs": []}
        for number in range(7)
    ]
    dataset = {"kind": "dataset", "name": "birds", "digest": "sha256:d", "inputs": [DIGEST]}
    model = {
        "kind": "model",
        "name": "stage_1",
        "digest": "sha256:m",
        "inputs": ["sha256:d"],
        "commit": "0123456789abcdef",
    }
    assert page(lineage=[model, dataset, *clips]).lineage == [
        ("model", "stage_1", "sha256:m", "made of birds at commit 0123456789"),
        ("dataset", "birds", "sha256:d", "made of sha256:0123456789ab"),
        (
            "clips",
            "7",
            "",
            "0.mp4, 1.mp4, 2.mp4, 3.mp4, 4.mp4, 5.mp4 and 1 more; captions and digests of each"
            " are in report.json",
        ),
    ]
    assert page(lineage=[dataset | {"inputs": []}]).lineage[0].note == ""


def test_facts_and_phases_are_listed():
    assert page().facts == [("cores", "2"), ("torch", "2")]
    assert page().phases == [("distill", "150.0")]
