from omniforcing_model.transformer.dual_stream_transformer import UNPERTURBED
from omniforcing_model.transformer.perturbation import Perturbation


def test_a_plain_pass_leaves_nothing_out():
    assert Perturbation(frozenset(), "drop", isolate=False) == UNPERTURBED
