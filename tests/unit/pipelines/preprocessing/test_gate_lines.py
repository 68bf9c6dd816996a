"""The gates as `dataset show` and the report explain them."""

from infra.config import GatesConfig
from infra.dataset.outcome_table import OutcomeCounts
from infra.presets import load_preset
from pipelines.preprocessing.gate_lines import gate_lines

COUNTS = OutcomeCounts(rows=9, ok=2, filtered={"silence": 4, "low_resolution": 3}, quarantined={})


def test_every_gate_has_its_limit_its_meaning_and_the_rows_it_refused():
    gates = load_preset("tiny", ["data.gates.silence_dbfs=-55"]).data.gates.model_dump()
    lines = {line.setting: line for line in gate_lines(gates, COUNTS)}
    assert lines.keys() == GatesConfig.model_fields.keys()
    assert all(line.meaning for line in lines.values())
    silence = lines["silence_dbfs"]
    assert (silence.limit, silence.reason, silence.refused) == (-55, "silence", 4)
    assert (lines["min_width"].refused, lines["max_seconds"].refused) == (3, 0)


def test_a_dataset_that_states_no_gates_has_no_lines():
    assert gate_lines({}, COUNTS) == ()
    assert gate_lines({"of_another_version": 1.0}, COUNTS) == ()
