"""Which trajectories stand in which file."""

import numpy as np

from actors.training.trajectory_shards import prompt_table, trajectory_shards
from infra.dataset.latent_table import shuffled_indices
from tests.worlds.sized_clips import SQUARE, TWO_SIZES, WIDE, write_sized_clips
from tests.worlds.training import small_run, write_clips

COUNT = ("stages.trajectories.count=11", "stages.trajectories.rows_per_shard=4")


def shards_of(config, dataset):
    return trajectory_shards(config, prompt_table(config, dataset))


def test_of_one_size_they_stand_in_the_order_of_their_places(tmp_path):
    config = small_run(*COUNT)
    shards = shards_of(config, write_clips(config, tmp_path / "clips", clips=8))
    assert [shard.places.tolist() for shard in shards] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    seed = config.stages.trajectories.seed
    expected = [int(shuffled_indices(seed, place, 1, 8)[0]) for place in range(11)]
    assert np.concatenate([shard.rows for shard in shards]).tolist() == expected
    assert {shard.size for shard in shards} == {SQUARE}


def test_a_file_has_one_size_and_a_place_the_prompt_that_it_has_among_all(tmp_path):
    config = small_run(*COUNT, TWO_SIZES)
    dataset = write_sized_clips(config, tmp_path / "clips", {SQUARE: 3, WIDE: 5})
    table, shards = prompt_table(config, dataset), shards_of(config, dataset)
    assert {shard.size for shard in shards} == {SQUARE, WIDE}
    expected = shuffled_indices(config.stages.trajectories.seed, 0, 11, 8)
    seen = []
    for shard in shards:
        assert 1 <= len(shard.places) <= 4
        sizes = table.read(shard.rows, ["width"])["width"]
        assert set(sizes) == {shard.size.width}
        assert shard.rows.tolist() == expected[shard.places].tolist()
        seen += shard.places.tolist()
    assert sorted(seen) == list(range(11))


def test_rows_of_sizes_that_the_run_does_not_have_give_no_prompts(tmp_path):
    config = small_run(*COUNT)
    dataset = write_sized_clips(config, tmp_path / "clips", {SQUARE: 3, WIDE: 5})
    assert prompt_table(config, dataset).rows == 3
    assert {shard.size for shard in shards_of(config, dataset)} == {SQUARE}
