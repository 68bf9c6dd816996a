"""What a stage is stands in one table; no other module knows a stage of the paper by its name."""

import re

TABLE = "infra/stages.py"
NAMED = re.compile(r"\bstage_[123]\b")


def test_the_stages_of_the_paper_are_named_in_their_table_alone(sources):
    naming = {str(source.path) for source in sources if NAMED.search(source.text)}
    assert naming == {TABLE}, "take names and facts from the table of stages"
