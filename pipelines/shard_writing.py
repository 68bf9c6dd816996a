"""The last step of preprocessing, run by Ray tasks: finished rows to a shard.

Apart from the graph, because a task's process imports the module of its function: this one needs
neither torch nor the other steps.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.latent_shards import write_shard
from infra.outcome_table import OK

# Columns of a row that are not part of the dataset: how its work ended.
ENDS = ("outcome", "reason", "error")


def write_rows(batch: Mapping[str, NDArray[Any]], out: str) -> dict[str, NDArray[Any]]:
    """Write the `ok` rows of `batch` as one shard of the dataset `out`.

    Gives every row without its tensors, and with `shard`: the shard's record as JSON, empty for
    rows that are in none.
    """
    ok = batch["outcome"] == OK
    columns = {name: values[ok] for name, values in batch.items() if name not in ENDS}
    shard = write_shard(out, columns).model_dump_json() if ok.any() else ""
    plain = {name: values for name, values in batch.items() if values.ndim == 1}
    return plain | {"shard": np.array([shard if is_ok else "" for is_ok in ok], dtype=object)}
