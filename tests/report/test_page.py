"""The page and its parts are well formed and show what they are given."""

import re
from xml.etree import ElementTree

import pytest

from speechkit.report.page import SIDE, bars, curve, heat, line, page, scatter, shades, table

PARTS = {
    "table": table(("a", "<b>"), [("x & y", "1"), ("z", "2")]),
    "heat": heat(("yes", "<no>"), [[3, 1], [0, 0]]),
    "bars": bars({"ann": 0.5, "b&b": 0.25}),
    "no bars": bars({}),
    "zero bars": bars({"ann": 0.0}),
    "curve": curve([(0, 0), (0.5, 1), (1, 1)], "x", "y < 1"),
    "line": line("a < b", [0.5, None, -1.0, 2.0], 400),
    "a flat line": line("a", [0.0, 0.0], 2),
    "one point": line("a", [3.0], 1),
    "no number": line("a", [None], 1),
    "shades": shades("a < b", [[0.0, 1.0], [None, 3.0]], (200, 100)),
    "even shades": shades("a", [[2.0]], (1, 1)),
    "scatter": scatter([(1, 0.1), (0.5, 0.2)], [(0.5, 0.2)], "time <", "error", 0.5),
    "no points": scatter([], [], "x", "y", 0.5),
    "discs": curve([(0.5, 1.0)], "x", "y", [4.0]),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_well_formed(name: str) -> None:
    ElementTree.fromstring(PARTS[name])


def test_a_matrix_is_as_dark_as_the_share_of_its_row() -> None:
    cells = list(ElementTree.fromstring(PARTS["heat"]).iter("td"))
    assert [cell.text for cell in cells] == ["3", "1", "0", "0"]
    assert cells[0].get("style", "").endswith(",0.600)")
    assert cells[2].get("style", "").endswith(",0.000)")


def test_bars_are_as_long_as_their_values() -> None:
    one, other = ElementTree.fromstring(PARTS["bars"]).iter("rect")
    assert float(one.get("width", 0)) == 2 * float(other.get("width", 0)) > 0


def test_a_curve_begins_below_on_the_left() -> None:
    line = list(ElementTree.fromstring(PARTS["curve"]).iter("polyline"))[1]
    (x, y), *_, (right, top) = [p.split(",") for p in line.get("points", "").split()]
    assert float(x) < float(right)
    assert float(y) > float(top)


def test_a_page_shows_figures_and_sections() -> None:
    html = page("<m>", {"n": 3, "wer": 0.25}, [("A & B", "<p>here</p>")])
    assert "<title>&lt;m&gt;</title>" in html
    assert '<td>wer</td><td class="n">0.2500</td>' in html
    assert '<td>n</td><td class="n">3</td>' in html
    assert "<h2>A &amp; B</h2>\n<p>here</p>" in html


def test_a_line_has_a_gap_where_there_is_no_number() -> None:
    drawn = ElementTree.fromstring(PARTS["line"])
    first, second = (p.get("points", "") for p in drawn.iter("polyline"))
    assert len(first.split()) == 1
    (_, low), (_, high) = (point.split(",") for point in second.split())
    assert float(high) == 10 < float(low)
    assert {"2", "-1", "0", "399"} <= {text.text for text in drawn.iter("text")}


def test_a_matrix_is_white_where_it_is_smallest() -> None:
    drawn = ElementTree.fromstring(PARTS["shades"])
    squares = [rect.get("fill-opacity") for rect in drawn.iter("rect")]
    assert squares == [None, "0.00", "0.33", "1.00"]
    caption = drawn.find("figcaption")
    assert caption is not None
    assert caption.text == "a < b [200, 100], from 0 to 3"


def test_a_scatter_has_a_disc_for_each_point_at_its_place() -> None:
    drawn = scatter([(1.0, 0.1), (0.5, 0.2)], [(0.5, 0.2), (1.0, 0.1)], "time", "error", 0.5)
    discs = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in discs)
    assert x1 - 60 == pytest.approx(2 * (x2 - 60), abs=0.1)
    bottom = 10 + SIDE
    assert 2 * (bottom - y1) == pytest.approx(bottom - y2, abs=0.2)
    assert f'points="{x2},{y2} {x1},{y1}"' in drawn
