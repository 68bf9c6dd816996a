import torch
from torch import nn

from omniforcing_model.kernels.elementwise import EPS
from omniforcing_model.transformer.projections import (
    ColumnLinear,
    FileTensor,
    HeadsNorm,
    RowLinear,
    file_tensors,
)
from omniforcing_model.transformer.stream_parallel import WHOLE, StreamParallel

SECOND = StreamParallel("tensor", 2, 1)


class Parent(nn.Module):
    def __init__(self, parallel):
        super().__init__()
        self.to_kv = ColumnLinear(4, {"to_k": 6, "to_v": 2}, parallel)
        self.to_out = RowLinear(6, 3, parallel)
        self.norm_k = HeadsNorm(6, parallel)
        self.table = nn.Parameter(torch.zeros(5))


class Model(nn.Module):
    def __init__(self, parallel=WHOLE):
        super().__init__()
        self.layer = Parent(parallel)


def test_one_product_is_several_tensors_of_a_file():
    pieces = dict(file_tensors(Model()))
    assert {name: tuple(piece.view.shape) for name, piece in pieces.items()} == {
        "layer.to_k.weight": (6, 4),
        "layer.to_k.bias": (6,),
        "layer.to_v.weight": (2, 4),
        "layer.to_v.bias": (2,),
        "layer.to_out.weight": (3, 6),
        "layer.to_out.bias": (3,),
        "layer.norm_k.weight": (6,),
        "layer.table": (5,),
    }
    assert all(piece.dim is None for piece in pieces.values())


def test_a_share_is_rows_of_what_goes_in_and_columns_of_what_comes_out():
    pieces = dict(file_tensors(Model(SECOND)))
    places = {name: (p.dim, p.start, tuple(p.view.shape)) for name, p in pieces.items()}
    assert places == {
        "layer.to_k.weight": (0, 3, (3, 4)),
        "layer.to_k.bias": (0, 3, (3,)),
        "layer.to_v.weight": (0, 1, (1, 4)),
        "layer.to_v.bias": (0, 1, (1,)),
        "layer.to_out.weight": (1, 3, (3, 3)),
        "layer.to_out.bias": (None, 0, (3,)),
        "layer.norm_k.weight": (0, 3, (3,)),
        "layer.table": (None, 0, (5,)),
    }


def test_views_write_into_the_model():
    model = Model()
    dict(file_tensors(model))["layer.to_v.weight"].view.fill_(7)
    assert model.layer.to_kv.weight[6:].eq(7).all()
    assert not model.layer.to_kv.weight[:6].eq(7).any()


def test_a_piece_is_cut_from_the_whole():
    whole = torch.arange(12).reshape(3, 4)
    assert FileTensor(torch.zeros(3, 4), "w").of(whole) is whole
    assert FileTensor(torch.zeros(2, 4), "w", 0, 1).of(whole).tolist() == whole[1:].tolist()
    assert FileTensor(torch.zeros(3, 2), "w", 1, 2).of(whole).tolist() == whole[:, 2:].tolist()


def test_heads_are_normed_jointly():
    norm = HeadsNorm(4, WHOLE)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x = torch.tensor([[[1.0, 1.0, 1.0, 3.0]]])  # mean of squares: 3
    expected = x * norm.weight / (3 + EPS) ** 0.5
    assert EPS == 1e-6
    assert torch.allclose(norm(x), expected)
