"""Which rows a step takes where clips have several sizes."""

import numpy as np

from actors.training.step_rows import StepRows
from infra.config import FrameSize
from infra.dataset.latent_table import shuffled_indices
from tests.worlds.sized_clips import SQUARE, WIDE

# Numbers of the rows of each size, mixed as the rows' ids happen to mix them.
ROWS = {SQUARE: np.arange(0, 30, 3), WIDE: np.array([n for n in range(30) if n % 3])}
BATCH = 4


def steps(number, rows_of_sizes=ROWS, stage="stage_1", seed=5, batch=BATCH):
    rows = StepRows(rows_of_sizes, seed, stage, batch)
    return [rows.of_step(step) for step in range(number)]


def taken(of_steps, size):
    return np.concatenate([rows for own, rows in of_steps if own == size])


def test_clips_of_one_size_are_taken_in_the_shuffled_order_of_all_rows():
    for step, (size, rows) in enumerate(steps(40, {SQUARE: np.arange(7)})):
        assert size == SQUARE
        assert rows.tolist() == shuffled_indices(5, step, BATCH, 7).tolist()


def test_a_step_has_rows_of_one_size_and_every_size_as_often_as_it_has_rows():
    of_steps = steps(900)
    for size, rows in of_steps:
        assert len(rows) == BATCH
        assert set(rows) <= set(ROWS[size])
    share = sum(size == SQUARE for size, _ in of_steps) / len(of_steps)
    assert abs(share - 1 / 3) < 0.05


def test_each_size_takes_all_its_rows_once_in_an_epoch_of_its_own():
    of_steps = steps(300)
    for size, own in ROWS.items():
        in_order = taken(of_steps, size)
        epochs = in_order[: len(in_order) // len(own) * len(own)].reshape(-1, len(own))
        assert len(epochs) > 10
        assert (np.sort(epochs, axis=1) == own).all()
        assert len(np.unique(epochs, axis=0)) == len(epochs)


def test_a_size_with_fewer_rows_than_a_batch_goes_on_in_its_next_epoch():
    few = {
        SQUARE: np.array([3, 8, 9]),
        WIDE: np.array([n for n in range(12) if n not in (3, 8, 9)]),
    }
    in_order = taken(steps(60, few, batch=5), SQUARE)
    counts = np.bincount(in_order)[[3, 8, 9]]
    assert counts.min() >= 5
    assert counts.max() - counts.min() <= 1


def test_a_size_without_rows_is_in_no_step():
    none = {FrameSize(height=9, width=9): np.empty(0, np.int64), **ROWS}
    for (size, rows), (same_size, same_rows) in zip(steps(50, none), steps(50), strict=True):
        assert size == same_size
        assert rows.tolist() == same_rows.tolist()


def test_a_step_depends_on_its_number_alone():
    straight = steps(60)
    for step in (59, 31, 0, 44):
        size, rows = StepRows(ROWS, 5, "stage_1", BATCH).of_step(step)
        assert size == straight[step][0]
        assert rows.tolist() == straight[step][1].tolist()


def test_stages_and_seeds_draw_sizes_of_their_own():
    drawn = {
        tuple(size.width for size, _ in steps(40, stage=stage, seed=seed))
        for stage in ("stage_1", "stage_3")
        for seed in (5, 6)
    }
    assert len(drawn) == 4
