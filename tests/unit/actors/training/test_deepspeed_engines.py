"""DeepSpeed beside everything else in a process."""

import torch

from actors.training.deepspeed_engines import deepspeed


def test_a_process_that_trains_may_compile():
    deepspeed()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    double = torch.compile(lambda x: 2 * x, backend=backend, fullgraph=True)
    assert double(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(graphs) == 1
