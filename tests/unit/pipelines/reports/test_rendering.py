"""Pages from templates: nothing undefined, nothing unescaped, one style."""

import pytest
from jinja2 import UndefinedError

from pipelines.reports.rendering import data_uri, render_page


def test_every_page_has_the_frame_its_escaped_title_and_the_style_inside():
    page = render_page("reports/page.html", page={"title": "<a> & {{ b }}"})
    assert "<title>&lt;a&gt; &amp; {{ b }}</title>" in page
    assert "<h1>&lt;a&gt; &amp; {{ b }}</h1>" in page
    assert page.count("<style>") == 1 and ".tiles {" in page
    assert page.endswith("</html>\n")


def test_a_value_that_nobody_gave_is_an_error():
    with pytest.raises(UndefinedError, match="title"):
        render_page("reports/page.html", page={})


def test_a_file_inside_a_page_is_base64():
    assert data_uri(b"\x00\xff", "image/png") == "data:image/png;base64,AP8="
