import torch

from omniforcing_model.noise import generator_noise, seeded_noise
from omniforcing_model.seeds import seed_of


def test_noise_is_a_function_of_seed_stream_block_and_step():
    drawn = seeded_noise(7)("video", 2, 1, (1, 3, 4))
    expected = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed_of(7, "video", 2, 1)))
    assert torch.equal(drawn, expected[None])
    assert torch.equal(drawn, seeded_noise(7)("video", 2, 1, (1, 3, 4)))
    for other in (("audio", 2, 1), ("video", 3, 1), ("video", 2, 0)):
        assert not torch.equal(drawn, seeded_noise(7)(*other, (1, 3, 4)))
    assert not torch.equal(drawn, seeded_noise(8)("video", 2, 1, (1, 3, 4)))


def test_every_row_of_a_batch_has_its_own_seed():
    rows = seeded_noise([3, 5])("audio", 0, 0, (2, 6))
    assert rows.shape == (2, 6)
    assert torch.equal(rows[1:], seeded_noise(5)("audio", 0, 0, (1, 6)))


def test_a_generators_noise_goes_on_in_the_order_of_the_calls():
    noise = generator_noise(torch.Generator().manual_seed(1))
    drawn = [noise("video", 0, 0, (2, 2)) for _ in range(2)]
    same = torch.Generator().manual_seed(1)
    assert torch.equal(drawn[0], torch.randn((2, 2), generator=same))
    assert torch.equal(drawn[1], torch.randn((2, 2), generator=same))
