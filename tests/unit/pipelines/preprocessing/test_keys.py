"""Keys: digests of a recipe and of a row's values, and nothing else."""

import hashlib

from pipelines.preprocessing.keys import keys


def test_a_key_is_the_digest_of_the_recipe_and_the_row_as_json():
    expected = [
        hashlib.sha256(row.encode()).hexdigest() for row in ('recipe["é", 1]', 'recipe["b", 2]')
    ]
    assert keys("recipe", ["é", "b"], [1, 2]) == expected


def test_another_recipe_or_another_value_is_another_key():
    assert len({*keys("a", ["x", "y"]), *keys("b", ["x", "y"])}) == 4
