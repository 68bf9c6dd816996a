import torch
from torch import nn

from omniforcing_model.codecs.ltx2.streaming_convolutions import ConvolutionMemory


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.float32).reshape(1, 1, -1)


def test_a_chunk_follows_the_rows_before_it():
    memory, convolution = ConvolutionMemory(), nn.Identity()
    start = rows(0, 0)
    assert memory.extend(convolution, rows(1, 2, 3), start, 3).flatten().tolist() == [0, 0, 1, 2, 3]
    assert memory.extend(convolution, rows(4), start, 1).flatten().tolist() == [2, 3, 4]
    assert memory.extend(convolution, rows(5), start, 1).flatten().tolist() == [3, 4, 5]


def test_rows_that_come_again_are_not_remembered():
    memory, convolution = ConvolutionMemory(), nn.Identity()
    memory.extend(convolution, rows(1, 2, 3), rows(0), 2)
    assert memory.extend(convolution, rows(3, 4), rows(0), 1).flatten().tolist() == [2, 3, 4]
    assert memory.extend(convolution, rows(4), rows(0), 1).flatten().tolist() == [3, 4]


def test_every_convolution_remembers_its_own():
    memory, first, second = ConvolutionMemory(), nn.Identity(), nn.Identity()
    memory.extend(first, rows(1), rows(0), 1)
    assert memory.extend(second, rows(2), rows(9), 1).flatten().tolist() == [9, 2]
    assert memory.extend(first, rows(3), rows(0), 1).flatten().tolist() == [1, 3]
