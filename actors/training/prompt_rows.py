"""The text of trajectories: they name rows of a dataset, where their prompts' features are.

So the features of a prompt, several times as large as the states of a trajectory, are stored once.
A row that has other features since is refused: what the student learns would not be what its
trajectories were sampled for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from actors.training.row_shapes import Shape, require_shapes
from infra.dataset.columns import Column
from infra.dataset.latent_table import LatentTable
from infra.errors import DatasetError
from infra.runs.provenance import ArtifactRef, resolved_uri

# Of a trajectory, what names its prompt.
PROMPT_COLUMNS = (Column.PROMPT_ROW, Column.PROMPT_DIGEST)


class PromptRows:
    """Reads the text features of trajectories from the dataset whose rows these name."""

    def __init__(
        self, trajectories: LatentTable, uri: str | None, shapes: Mapping[str, Shape]
    ) -> None:
        """Open the dataset at `uri`, or where the trajectories say that it is.

        shapes: of the features of a row, by column. DatasetError if there is no dataset.
        """
        self._table = LatentTable.open(uri or _stated_place(trajectories))
        self._shapes = shapes

    def read(self, trajectories: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The features of rows with PROMPT_COLUMNS, by column, in their order.

        DatasetError if a row is gone, damaged or of another shape, or its features have changed.
        """
        numbers = self._table.find(trajectories[Column.PROMPT_ROW])
        expected = trajectories[Column.PROMPT_DIGEST]
        for number, digest, now in zip(
            numbers, expected, self._table.text_digests(numbers), strict=True
        ):
            if digest != now:
                raise DatasetError(
                    f"expected text {digest} of {self._table.describe(int(number))} in"
                    f" {self._table.uri}, for which a trajectory was sampled, got {now}; take the"
                    " dataset that was there, or make the trajectories again"
                )
        features = self._table.read(numbers, list(self._shapes))
        require_shapes(features, self._shapes, self._table, numbers)
        return features


def _stated_place(trajectories: LatentTable) -> str:
    """URI of the dataset among what the trajectories were made of."""
    inputs = trajectories.manifest.provenance.get("inputs", ())
    for ref in map(ArtifactRef.model_validate, inputs):
        if ref.kind == "dataset":
            return resolved_uri(ref.uri, Path(trajectories.uri))
    raise DatasetError(
        f"expected trajectories in {trajectories.uri} that say which dataset they were made of, got"
        " none among their inputs; make them again"
    )
