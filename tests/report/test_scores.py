import base64

from cinelora.report.markup import joined
from cinelora.report.scores import measured_verdict, scores_section
from report.parsed import Page

PNG = b"\x89PNG any bytes"
WAYS = {
    "columns": ["passes", "shape"],
    "rows": [
        {"name": "base, 4 steps <b>", "values": [4, 0.8125]},
        {"name": "with the adapter", "values": [4, 0.96], "trained": True},
    ],
}


def drawn(demo, folder):
    return Page(joined(scores_section(demo, folder)))


def test_a_run_that_is_no_demo_has_no_scores(tmp_path):
    assert scores_section(None, tmp_path) is None
    assert measured_verdict(None) == ""


def test_ways_of_drawing_stand_in_rows_with_the_trained_one_marked(tmp_path):
    page = drawn({"ways": WAYS, "text": "so", "verdict": {"text": "better", "passed": True}}, tmp_path)
    assert [a["data-label"] for a in page.all("td") if "data-label" in a] == ["passes", "shape"] * 2
    assert [a["class"] for a in page.all("td") if "data-label" in a] == ["n", "n", "n after", "n after"]
    assert "base, 4 steps <b>" in page.text
    assert "0.8125" in page.text
    assert "passed so" in page.text
    assert measured_verdict({"verdict": {"text": "better", "passed": True}}) == "better"


def test_a_verdict_that_was_not_reached_says_so(tmp_path):
    page = drawn({"text": "so", "verdict": {"text": "no better", "passed": False}}, tmp_path)
    assert "not passed so" in page.text
    assert page.all("span") == [{"class": "pill bad"}]


def test_pictures_of_the_run_folder_are_carried_and_no_others(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "a.png").write_bytes(PNG)
    (tmp_path / "outside.png").write_bytes(PNG)
    (run / "secret.txt").write_bytes(PNG)
    files = ["a.png", "../outside.png", "secret.txt", "gone.png"]
    page = drawn({"sheets": [{"file": name, "text": f"<i>{name}"} for name in files]}, run)
    (image,) = page.all("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == PNG
    assert image["alt"] == "<i>a.png"
    for name in ("outside.png", "secret.txt", "gone.png"):
        assert f"the picture {name} is not in the run folder" in page.text


def test_damaged_scores_do_not_break_the_page(tmp_path):
    page = drawn({"ways": "none", "rows": [1], "sheets": None, "verdict": []}, tmp_path)
    assert page.text == "What was measured"
