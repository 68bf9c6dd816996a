import torch

from omniforcing_model.transformer.identity_rope import with_identity_rows


def test_sinks_have_the_angle_zero_before_all_others():
    angles = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)
    extended = with_identity_rows(angles, 3)
    assert extended.dtype == torch.float64
    assert extended[:3].tolist() == [[0.0, 0.0]] * 3
    assert torch.equal(extended[3:], angles)
    assert torch.equal(with_identity_rows(angles, 0), angles)
