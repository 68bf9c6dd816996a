import pytest
import torch

from omniforcing_model.errors import ShapeError
from omniforcing_model.transformer.stream_parallel import UNSPLIT, WHOLE, StreamParallel


def test_tensor_parallel_cuts_weights_and_sequence_parallel_cuts_tokens():
    tensor, sequence = (StreamParallel(kind, 2, 1) for kind in ("tensor", "sequence"))
    assert (tensor.cuts_weights, tensor.cuts_tokens) == (True, False)
    assert (sequence.cuts_weights, sequence.cuts_tokens) == (False, True)
    for kind in ("tensor", "sequence"):
        alone = StreamParallel(kind, 1)
        assert (alone.cuts_weights, alone.cuts_tokens) == (False, False)


def test_shares_are_equal_and_in_the_order_of_ranks():
    tensor, sequence = (StreamParallel(kind, 4, 2) for kind in ("tensor", "sequence"))
    assert tensor.heads(8) == sequence.heads(8) == slice(4, 6)
    assert (tensor.projected_heads(8), sequence.projected_heads(8)) == (slice(4, 6), slice(None))
    assert (tensor.tokens(12), sequence.tokens(12)) == (slice(None), slice(6, 9))
    assert WHOLE.heads(7) == WHOLE.tokens(7) == slice(None)


def test_what_does_not_divide_is_refused():
    message = "expected attention heads that divide by the degree, got 6 for 4 processes"
    with pytest.raises(ShapeError, match=message):
        StreamParallel("tensor", 4).heads(6)
    with pytest.raises(ShapeError, match=r"expected tokens of a pass .* got 6 for 4"):
        StreamParallel("sequence", 4).tokens(6)


def test_one_process_communicates_with_none():
    values = torch.randn(2, 3)
    assert WHOLE.sum(values) is WHOLE.gather_tokens(values) is WHOLE.to_tokens(values) is values
    assert WHOLE.to_heads(values, values) == (values, values)
    assert tuple(UNSPLIT) == (WHOLE, WHOLE)
