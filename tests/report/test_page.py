from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastreid_parts.evaluation import Features, RankList, match_ranks
from fastreid_parts.report import Report, ReportedModel, ReportedTest, render_report, write_report
from fastreid_parts.report import page as page_module
from fastreid_parts.report.page import image_uri
from fastreid_parts.visualization import RankedExamples, worst_examples
from tests.report.html_pages import Tag, cells, numbers, read_page

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'names'"
SECTIONS = ["Summary", "Curves", "Rank lists", "Worst queries", "Activation maps", "Models and configs"]


@pytest.fixture
def images(tmp_path: Path) -> tuple[Features, Features]:
    """Two queries of camera 0, each with a junk image; the first has two matches, the second one match far away."""
    for color in range(10):
        cv2.imwrite(str(tmp_path / f"{color}.png"), np.full((20, 10, 3), 20 * color, np.uint8))
    paths = [str(tmp_path / f"{color}.png") for color in range(10)]
    query = Features(np.array([[0.0], [10]], np.float32), np.array([4, 7]), np.zeros(2, int), paths[:2])
    gallery = Features(
        np.array([[0.1], [0.2], [0.3], [0.4], [10.1], [10.2], [15], [30]], np.float32),
        np.array([4, 9, 4, 4, 9, 8, 7, 7]),
        np.array([0, 1, 1, 2, 1, 1, 0, 5]),
        paths[2:],
    )
    return query, gallery


@pytest.fixture(autouse=True)
def quick_charts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Charts take most of the time of a page; they have tests of their own, and one here."""
    if request.function is not test_charts_are_described:
        monkeypatch.setattr(page_module, "retrieval_curve", lambda kind, models, max_rank: kind.encode())


def make_report(images: tuple[Features, Features], names: tuple[str, ...] = ("BOT",), **changes: object) -> Report:
    query, gallery = images
    ranks = match_ranks(query, gallery)
    near = {row: np.abs(gallery.features[:, 0] - query.features[row, 0]) for row in range(2)}
    whole = worst_examples(query, gallery, ranks, near, count=2, k=3)
    test = ReportedTest(
        "Night<b>Set",
        {"queries": 2, "gallery images": 12345},
        dict.fromkeys(names, ranks),
        RankedExamples(query, gallery, dict.fromkeys(names, whole.lists[""]), ["worst", "second\nworst"]),
        dict.fromkeys(names, whole),
        [np.full((20, 10, 3), 100, np.uint8)] * 2,
        dict.fromkeys(names, np.random.default_rng(0).random((2, 20, 10))),
        choice="Queries by precision.",
        notes=["Something to know."],
    )
    models = [
        ReportedModel(
            name, {"ranked by": "cosine distance"}, {"weights": f"{name}.pth"}, f"A:\n  B: {number}\nC: [1]\n"
        )
        for number, name in enumerate(names)
    ]
    report = Report("Night & day", models, [test], {"torch": "2.0"}, "2026-01-02T03:04+00:00")
    return replace(report, **changes)


def section(page: Tag, heading: str) -> Tag:
    (found,) = [part for part in page.all("section") if part.all("h2")[0].text == heading]
    return found


def test_sections_and_contents(images: tuple) -> None:
    page = read_page(render_report(make_report(images)))
    assert [part.all("h2")[0].text for part in page.all("section")] == SECTIONS
    (nav,) = page.all("nav")
    assert [link.text for link in nav.all("a")] == SECTIONS
    assert [link.attributes["href"] for link in nav.all("a")] == [
        f"#{part.attributes['id']}" for part in page.all("section")
    ]
    assert page.all("title")[0].text == page.all("h1")[0].text == "Night & day"
    (time,) = page.all("time")
    assert time.attributes["datetime"] == "2026-01-02T03:04+00:00" and time.text.startswith("2026-01-02 03:04")
    assert page.all("footer")[0].text == "Made with torch 2.0."
    policy = next(tag for tag in page.all("meta") if tag.attributes.get("http-equiv"))
    assert "default-src 'none'" in policy.attributes["content"]


def test_scores_and_counts(images: tuple) -> None:
    report = make_report(images, ("BOT", "CGE"))
    perfect = match_ranks(images[0], replace(images[1], features=images[1].pids[:, None].astype(np.float32)), "cosine")
    test = replace(report.tests[0], ranks={"BOT": report.tests[0].ranks["BOT"], "CGE": perfect})
    page = read_page(render_report(replace(report, tests=[test])))
    scores, made, counts = section(page, "Summary").all("table")
    assert cells(scores)[0] == ["model", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]
    for name, row in zip(("BOT", "CGE"), scores.all("tbody")[0].all("tr")):
        results = test.ranks[name].results()
        assert row.children[0].text == name
        assert numbers(row) == [results[measure] for measure in cells(scores)[0][1:]]
        best = [max(own.results()[measure] for own in test.ranks.values()) for measure in cells(scores)[0][1:]]
        assert [bool(cell.all("strong")) for cell in row.all("td")] == [a == b for a, b in zip(numbers(row), best)]
        assert row.all("data")[0].text == f"{results['mAP']:.1f}"
    assert cells(made)[1:] == [["ranked by", "cosine distance", "cosine distance"], ["weights", "BOT.pth", "CGE.pth"]]
    assert cells(counts)[1:] == [["queries", "2"], ["gallery images", "12,345"]]
    assert "Something to know." in section(page, "Summary").text


def test_several_test_sets(images: tuple) -> None:
    report = make_report(images)
    page = read_page(render_report(replace(report, tests=[report.tests[0], replace(report.tests[0], dataset="Day")])))
    scores, _, counts = section(page, "Summary").all("table")
    assert [row[:2] for row in cells(scores)[1:]] == [["BOT", "Night<b>Set"], ["BOT", "Day"]]
    assert cells(counts)[0] == ["number of", "Night<b>Set", "Day"]
    assert "Day" in [heading.text for heading in section(page, "Curves").all("h3")]


def test_charts_are_described(images: tuple) -> None:
    report = make_report(images)
    charts = section(read_page(render_report(report)), "Curves").all("img")
    assert len(charts) == 3
    drawn = [base64.b64decode(chart.attributes["src"].split(",")[1]) for chart in charts]
    assert len({cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).tobytes() for png in drawn}) == 3
    for chart in charts:
        assert f"BOT: mAP {report.tests[0].ranks['BOT'].results()['mAP']:.1f} %" in chart.attributes["alt"]
        assert chart.attributes["src"].startswith("data:image/png")


def test_frames_of_matches_non_matches_and_junk(images: tuple) -> None:
    lists = section(read_page(render_report(make_report(images))), "Rank lists")
    legend, first, second = lists.all("ul", "legend")[0], *lists.all("article")
    assert [mark.attributes["class"] for mark in legend.all("span")] == ["asked", "match", "non-match", "junk"]
    assert [article.all("h3")[0].text for article in (first, second)] == ["worst 1.png", "second worst 0.png"]
    assert "Queries by precision." in lists.text
    assert framed(first) == [
        ("asked", "id 7 cam 1"),
        ("non-match", "1 ✗ 0.100 id 9 cam 2"),
        ("non-match", "2 ✗ 0.200 id 8 cam 2"),
        ("junk", "– 5.00 id 7 cam 1"),
        ("non-match", "3 ✗ 9.60 id 4 cam 3"),
        ("match", "7 ✓ 20.0 id 7 cam 6"),
    ]
    assert [item.text for item in first.all("li", "more")] == ["… ranks 4 to 6 …"]
    assert [kind for kind, _ in framed(second)] == ["asked", "junk", "non-match", "match", "match"]
    alts = [image.attributes["alt"] for image in second.all("img")]
    assert alts[0] == "query, identity 4, camera 1" and alts[1] == "junk: identity 4, camera 1"
    assert alts[3] == "rank 2, match: identity 4, camera 2"


def framed(article: Tag) -> list[tuple[str, str]]:
    """Frame and caption of each image."""
    figures = article.all("figure", "framed")
    return [(figure.attributes["class"].split(" ")[1], figure.all("figcaption")[0].text) for figure in figures]


def test_worst_queries_say_where_their_first_match_is(images: tuple) -> None:
    worst = section(read_page(render_report(make_report(images))), "Worst queries")
    headings = [article.all("h3")[0].text for article in worst.all("article")]
    assert headings == ["AP 14.3%, first match at rank 7 1.png", "AP 58.3%, first match at rank 2 0.png"]


def test_long_runs_of_junk_are_cut(images: tuple) -> None:
    """Seven junk images in one run, three in another, which is short enough."""
    query, gallery = images
    ranks = np.array([0] * 7 + [1] + [0] * 3 + [2])
    found = RankList(0, np.zeros(12, int), np.arange(12.0), np.ones(12, bool), ranks)
    report = make_report(images)
    test = replace(report.tests[0], examples=RankedExamples(query, gallery, {"": [found]}, ["long"]), maps={})
    (article,) = section(read_page(render_report(replace(report, tests=[test]))), "Rank lists").all("article")
    items = [item.text.split(" ")[0] for item in article.all("ol")[0].all("li")]
    assert items == ["–", "–", "and", "1", "–", "–", "–", "2"]
    assert article.all("li", "more")[0].text == "and 5 more junk"


def test_models_below_one_another(images: tuple) -> None:
    report = make_report(images, ("BOT", "CGE"))
    examples = replace(report.tests[0].examples, notes={"BOT": ["AP 1%", "AP 2%"], "CGE": ["AP 3%", "no match"]})
    page = read_page(render_report(replace(report, tests=[replace(report.tests[0], examples=examples)])))
    second = section(page, "Rank lists").all("article")[1]
    assert [head.text for head in second.all("h4")] == ["BOT · AP 2%", "CGE · no match"]
    assert len(second.all("ol")) == 2 and len(second.all("figure", "asked")) == 1
    assert len(section(page, "Worst queries").all("article")) == 4


def test_activation_maps(images: tuple) -> None:
    report = make_report(images, ("BOT", "CGE"))
    articles = section(read_page(render_report(report)), "Activation maps").all("article")
    assert [len(article.all("img")) for article in articles] == [5, 5]
    captions = [caption.text for caption in articles[0].all("figcaption")]
    assert captions == ["image", "BOT, map", "BOT, on image", "CGE, map", "CGE, on image"]
    without = replace(report, tests=[replace(report.tests[0], maps={}, images=(), worst={})])
    page = read_page(render_report(without))
    assert [part.all("h2")[0].text for part in page.all("section")] == [SECTIONS[i] for i in (0, 1, 2, 5)]
    wrong = replace(report, tests=[replace(report.tests[0], images=report.tests[0].images[:1])])
    with pytest.raises(ValueError, match="2 queries, 1 images and 2 activation maps of 'BOT'"):
        render_report(wrong)


def test_configs_and_where_they_differ(images: tuple) -> None:
    report = make_report(images, ("BOT", "CGE"))
    models = section(read_page(render_report(report)), "Models and configs")
    assert cells(models.all("table")[0]) == [["key", "BOT", "CGE"], ["A.B", "0", "1"]]
    assert [details.all("summary")[0].text for details in models.all("details")] == ["Config of BOT", "Config of CGE"]
    assert "".join(models.all("details")[1].all("pre")[0].texts) == report.models[1].config
    assert not section(read_page(render_report(make_report(images))), "Models and configs").all("table")


def test_hostile_names_stay_texts(images: tuple) -> None:
    report = make_report(images, (HOSTILE,), title=HOSTILE, versions={HOSTILE: HOSTILE})
    model = replace(report.models[0], files={HOSTILE: HOSTILE}, config=f'A: "</pre>{HOSTILE[:20]}"\n')
    query, gallery = images
    hostile = Path(query.paths[0]).with_name("<img src=x onerror='1'> & \"q\".png")
    Path(query.paths[0]).rename(hostile)
    query = replace(query, paths=[str(hostile), *query.paths[1:]])
    examples = replace(report.tests[0].examples, query=query, labels=[HOSTILE] * 2, notes={HOSTILE: [HOSTILE] * 2})
    worst = {HOSTILE: replace(report.tests[0].worst[HOSTILE], query=query)}
    test = replace(report.tests[0], notes=[HOSTILE], choice=HOSTILE, counts={HOSTILE: 1}, dataset=HOSTILE)
    test = replace(test, examples=examples, worst=worst)
    page = read_page(render_report(replace(report, models=[model], tests=[test])))
    assert page.all("h1")[0].text == HOSTILE
    assert HOSTILE in section(page, "Curves").all("img")[0].attributes["alt"]
    assert section(page, "Worst queries").all("h3")[0].text == f"{HOSTILE}: all queries"
    assert hostile.name in [small.text for small in section(page, "Rank lists").all("small")]
    assert section(page, "Models and configs").all("pre")[0].text == model.config.strip()


def test_large_images_are_made_smaller() -> None:
    uri, width, height = image_uri(np.random.default_rng(0).integers(0, 255, (900, 300, 3), dtype=np.uint8))
    assert (width, height) == (85, 256)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.format == "JPEG" and picture.size == (85, 256)
    assert image_uri(np.zeros((20, 10, 3), np.uint8))[1:] == (10, 20)  # and small ones are not made larger


def test_writes_a_whole_file_or_none(images: tuple, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    report = make_report(images)
    write_report(report, path)
    assert path.read_text(encoding="utf-8") == render_report(report)
    Path(images[1].paths[1]).unlink()
    with pytest.raises(OSError):
        write_report(make_report(images, title="Other"), path)
    assert "Other" not in path.read_text(encoding="utf-8") and [file.name for file in path.parent.iterdir()] == [
        path.name
    ]


def test_refuses(images: tuple) -> None:
    report = make_report(images)
    with pytest.raises(ValueError, match="at least one model and one test set"):
        render_report(replace(report, models=[]))
    with pytest.raises(ValueError, match="test set Night<b>Set has no numbers of BOT"):
        render_report(replace(report, tests=[replace(report.tests[0], ranks={})]))
