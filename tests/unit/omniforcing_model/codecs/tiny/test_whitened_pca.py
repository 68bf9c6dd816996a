import pytest
import torch
from safetensors.torch import save_file

from omniforcing_model.codecs.tiny.whitened_pca import WhitenedPca
from omniforcing_model.errors import ShapeError, WeightsError

PCA = WhitenedPca(torch.tensor([1.0, 2.0, 3.0]), torch.eye(3)[:2], torch.tensor([2.0, 4.0]))


def samples(count=40):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, 4, generator=generator) * torch.tensor([1.0, 8.0, 2.0, 0.01])
    return values + 5


def test_a_code_is_the_centred_value_on_the_basis_by_the_deviation():
    assert PCA.channels == 2
    assert PCA.encode(torch.tensor([5.0, 10.0, 7.0])).tolist() == [2.0, 2.0]
    assert PCA.decode(torch.tensor([2.0, 2.0])).tolist() == [5.0, 10.0, 3.0]


def test_the_largest_directions_come_first_with_a_fixed_sign():
    pca = WhitenedPca.fit(samples(), 2)
    assert pca.basis.abs().argmax(1).tolist() == [1, 2]
    assert pca.basis.gather(1, pca.basis.abs().argmax(1, keepdim=True)).min() > 0
    assert torch.allclose(pca.mean, samples().mean(0))
    assert torch.allclose(pca.encode(samples()).std(0), torch.ones(2), atol=1e-5)
    assert torch.equal(pca.basis, pca.basis.half().float())


def test_a_fit_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    WhitenedPca.fit(samples(), 2)
    assert torch.equal(torch.rand(1), expected)


def test_too_few_samples_are_refused():
    WhitenedPca.fit(samples(10), 2)
    with pytest.raises(ShapeError, match="at least 10 samples to fit 2 channels, got 9"):
        WhitenedPca.fit(samples(9), 2)


def test_explained_variance_is_the_share_that_is_left():
    values = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    pca = WhitenedPca(torch.zeros(3), torch.eye(3)[:1], torch.ones(1))
    assert pca.explained_variance(values) == pytest.approx(0.5)


def test_a_saved_code_is_read_back_with_its_settings(tmp_path):
    path = tmp_path / "codec.safetensors"
    PCA.save(path, "some_codec", {"floor": 0.5})
    loaded, settings = WhitenedPca.load(path, "some_codec")
    assert settings == {"floor": 0.5}
    for name in ("mean", "basis", "std"):
        assert getattr(loaded, name).dtype == torch.float32
        assert torch.equal(getattr(loaded, name), getattr(PCA, name))


def test_another_kind_an_incomplete_and_a_damaged_file_are_refused(tmp_path):
    path = tmp_path / "codec.safetensors"
    PCA.save(path, "some_codec", {})
    with pytest.raises(WeightsError, match=r"expected a other_codec with tensors .*'some_codec'"):
        WhitenedPca.load(path, "other_codec")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="cut off"):
        WhitenedPca.load(path, "some_codec")
    save_file({"mean": torch.zeros(1)}, path, {"kind": "some_codec", "settings": "{}"})
    with pytest.raises(WeightsError, match="got 'some_codec' with mean in"):
        WhitenedPca.load(path, "some_codec")
