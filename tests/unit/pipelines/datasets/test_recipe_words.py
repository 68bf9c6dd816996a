"""Why one dataset is not another, in words."""

import pytest

from infra.presets import load_preset
from infra.runs.provenance import flatten
from pipelines.datasets.recipe_words import meaning_of, recipe_differences
from pipelines.preprocessing.recipe import recipe_of


def values(*overrides):
    return recipe_of(load_preset("tiny", overrides)).values


def with_decoder(recipe, version):
    parts = {
        part: recipe[part] | {"decoder": recipe[part]["decoder"] | {"av": version}}
        for part in ("survey", "latents")
    }
    return recipe | parts


def test_another_version_of_the_decoder_is_named_with_what_it_means():
    own = values()
    a, b = with_decoder(own, "17.0.0"), with_decoder(own, "18.1.0")
    clips, latents = sorted(recipe_differences(a, b), key=lambda each: each.key, reverse=True)
    assert (latents.key, latents.a, latents.b) == ("latents.decoder.av", "17.0.0", "18.1.0")
    assert latents.meaning == "another decoder gives other pictures and sound: every row is new"
    assert clips.key == "survey.decoder.av"
    assert recipe_differences(a, a) == ()


@pytest.mark.parametrize("kind", ["first", "shots"])
def test_every_key_of_a_recipe_has_a_meaning(kind):
    keys = flatten(values(f"data.split.kind={kind}"))
    assert [key for key in keys if not meaning_of(key)] == []


def test_a_key_that_only_one_has_is_absent_in_the_other():
    (line,) = recipe_differences({"x": {"y": 1}}, {})
    assert (line.key, line.a, line.b, line.meaning) == ("x.y", "1", "absent", "")
