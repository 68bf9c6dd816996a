"""What the person who opens a dataset's report finds in it, and what nobody's caption can do."""

import json
import re
from html.parser import HTMLParser

import pytest

from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from pipelines.datasets.report.page import write_report
from tests.worlds.datasets import summary_of
from tests.worlds.reports import HOSTILE, TEMPLATE_LIKE, write_dataset

SUMMARY = summary_of(12.5, {"ClipDecoder": 3.0, "LatentEncoder": 1.0}, 10)
SECTIONS = ["What became of every row", "Gates", "Kept", "Left out", "Scores", "Time", "Settings"]


class Elements(HTMLParser):
    """Names and attributes of every element, the text of the page and of the rows of tables."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.rows, self.text, self._cell = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag in ("span", "i"))

    def handle_data(self, data):
        self.text += data
        if self._cell and self.rows:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(world):
    path = write_report(world.out, world.clips, world.config, SUMMARY)
    assert path == f"{world.out.uri}/report.html"
    return world.out.read("report.html").decode()


@pytest.fixture(scope="module")
def values(world, page):
    return json.loads(world.out.read("report.json"))


def test_the_page_holds_every_section_and_needs_nothing_else(page):
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    assert not re.search(r"https?://|<link|src=\"(?!data:)|url\(|@import", page)
    assert len(page) < 8_000_000


def test_clips_are_in_the_page(page):
    videos = [attrs for tag, attrs in Elements(page).elements if tag == "video"]
    assert len(videos) == 3 * 2 + 3  # kept rows twice; silent, mute and cut
    assert all(attrs["src"].startswith("data:video/mp4;base64,") for attrs in videos)
    assert all("controls" in attrs and "muted" not in attrs for attrs in videos)


def test_a_script_in_a_caption_is_text_and_cannot_run(page):
    parsed = Elements(page)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base"}
    handlers = [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")]
    assert handlers == []
    images = [attrs["src"] for tag, attrs in parsed.elements if tag == "img"]
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert "&lt;script&gt;document.title = &#34;owned&#34;&lt;/script&gt;" in page
    assert "expected a clip, got &lt;img src=x onerror=boom&gt;" in page


def test_a_caption_that_looks_like_a_template_is_shown_letter_by_letter(page):
    assert TEMPLATE_LIKE in Elements(page).text
    assert page.count("</style>") == 1
    assert "</script>" not in page


def test_the_browser_is_told_to_run_no_script_whatever_the_page_holds(page):
    policies = [
        attrs["content"]
        for tag, attrs in Elements(page).elements
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    (policy,) = policies
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_the_lines_of_outcomes_add_up_to_all_rows(page, values):
    rows = {row[0]: row for row in Elements(page).rows}
    assert rows["ok"][2:] == ["3", "30.0%"]
    assert rows["filtered: silence"][2:] == ["1", "10.0%"]
    assert rows["quarantined: unreadable"][2:] == ["2", "20.0%"]
    lines = [row for name, row in rows.items() if name.startswith(("ok", "filtered", "quar"))]
    assert sum(int(row[2]) for row in lines) == int(rows["all rows"][2]) == 10
    counts = values["counts"]
    left_out = sum((counts["filtered"] | counts["quarantined"]).values())
    assert counts["ok"] + left_out == counts["rows"] == 10


def test_a_stage_has_its_seconds_its_share_and_its_time_per_row(page):
    rows = {row[0]: row for row in Elements(page).rows}
    assert rows["ClipDecoder"][2:] == ["3.00", "75.0%", "300"]
    assert rows["LatentEncoder"][2:] == ["1.00", "25.0%", "100"]
    assert "10 rows took 12.5 s by the clock" in page


def test_scores_are_those_of_the_outcomes(page, values):
    assert values["scores"]["loudness_lufs"]["median"] == -21
    assert values["scores"]["av_lag_ms"]["rows"] == 3
    assert sum(values["scores"]["av_lag_ms"]["counts"]) == 3
    assert page.count("data:image/png") == 2
    assert "3 rows, median -21.0 LUFS" in page


def test_the_json_names_the_rows_that_are_shown_without_their_clips(world, values):
    assert {row["caption_raw"] for row in values["gallery"]["kept"]} >= {HOSTILE}
    assert all(row["decoded"]["bytes"] > 0 for row in values["gallery"]["kept"])
    assert len(values["gallery"]["refused"]) == 7
    assert len(world.out.read("report.json")) < 20_000
    assert values["config"]["data"]["seconds"] == 1
    assert values["commit"] == "c0ffee"


def test_the_same_dataset_and_seed_give_the_same_page(world, page):
    write_report(world.out, world.clips, world.config, SUMMARY)
    assert world.out.read("report.html").decode() == page


def test_a_dataset_of_nothing_but_refused_clips_has_a_report(tmp_path):
    world = write_dataset(tmp_path, rows=0)
    write_report(world.out, world.clips, world.config, summary_of(0.0, {}, 0))
    page = world.out.read("report.html").decode()
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    assert "No row was kept." in page
    assert "no stage had work to do" in page
    assert page.count("measured in no row") == 2


def test_a_folder_without_a_dataset_has_no_report(world, tmp_path):
    with pytest.raises(DatasetError, match=r"got no manifest\.json"):
        write_report(ObjectStore(tmp_path), world.clips, world.config, SUMMARY)
    assert list(tmp_path.iterdir()) == []


def test_outcomes_that_are_gone_are_named(tmp_path):
    world = write_dataset(tmp_path, rows=1)
    world.out.delete("outcomes.parquet")
    with pytest.raises(DatasetError, match=r"1 rows or more in outcomes\.parquet"):
        write_report(world.out, world.clips, world.config, SUMMARY)
