"""The list to work through: which clip, what, found, do; nothing twice, errors first."""

from pathlib import Path

from cinelora.base.errors import Problem
from cinelora.data.fate import Row
from cinelora.data.plan import Plan
from cinelora.data.scan import ClipScan
from cinelora.data.worklist import tasks_of


def row(name="a", status="used", **more):
    return Row(f"s/{name}.mp4", f"t.csv:{name}", "s", "video", status, **more)


def tasks(*rows, problems=(), scans=(), tokens=None, limit=0):
    plan = Plan((), (), rows, tuple(problems))
    return [(t.key, t.kind, t.what, t.found) for t in tasks_of(plan, scans, tokens=tokens or {}, limit=limit)]


def scan(name="a", **seen):
    return ClipScan(f"s/{name}.mp4", stretch=(0.0, 2.0), **seen)


def test_a_clip_as_it_should_be_is_no_task():
    assert tasks(row(), scans=[scan()], tokens={"s/a.mp4": (7,)}, limit=7) == []


def test_problems_of_the_plan_are_errors_with_their_fix():
    bad = row("b", "left out", reason="media file is empty: 0 bytes")
    problem = Problem("media file is empty", found="0 bytes", where="t.csv:b (b.mp4)", do="get it again")
    plan = Plan((), (), (row(), bad), (problem,))
    (task,) = tasks_of(plan, tokens={})
    assert (task.key, task.file, task.kind) == ("s/b.mp4", "t.csv:b", "error")
    assert (task.what, task.found, task.do) == ("media file is empty", "0 bytes", "get it again")


def test_an_entry_with_two_problems_is_two_tasks():
    bad = Row("t.csv:3", "t.csv:3", "s", "", "left out", reason="x; y")
    problems = [Problem("no caption", where="t.csv:3"), Problem("media file is missing", where="t.csv:3")]
    assert [what for _, _, what, _ in tasks(bad, problems=problems)] == ["no caption", "media file is missing"]


def test_a_row_that_stands_twice_is_an_error_of_the_second():
    first, second = row("a"), Row("t.csv:7", "t.csv:7", "s", "", "left out", reason="twice: a.mp4")
    problem = Problem("twice", found="a.mp4", where="t.csv:3 and t.csv:7", do="keep one")
    assert tasks(first, second, problems=[problem]) == [("t.csv:7", "error", "twice", "a.mp4")]


def test_a_problem_that_names_no_place_is_told_by_the_row():
    bad = row("b", "left out", reason="media file is empty: 0 bytes")
    assert tasks(bad) == [("s/b.mp4", "error", "media file is empty", "0 bytes")]


def test_what_the_recipe_asks_to_leave_out_is_a_warning():
    short = row("b", "left out", reason="shorter than every frame bucket: 9 frames at 8 fps")
    found = tasks(short, row("c", notes=("shorter than every frame bucket: 9 frames are used",)))
    assert found == [
        ("s/b.mp4", "warning", "shorter than every frame bucket", "9 frames at 8 fps"),
        ("s/c.mp4", "warning", "shorter than every frame bucket", "9 frames are used"),
    ]


def test_every_note_of_the_plan_is_a_task_with_something_to_do():
    notes = (
        "enlarged 2.00 times",
        "things move 2.00 times as fast as in the source",
        "variable frame rate",
        "the table is wrong: width 3 stated, 4 measured",
        "the same file as s/b.mp4 and 2 more",
        "stands in 2 buckets: 5x32x32, 1x32x32",
    )
    found = tasks_of(Plan((), (), (row(notes=notes),)), tokens={})
    assert all(task.do for task in found)
    assert [task.found for task in found[3:]] == [
        "width 3 stated, 4 measured",
        "s/b.mp4 and 2 more",
        "5x32x32, 1x32x32",
    ]


def test_looks_are_warnings_and_errors_come_first():
    problem = Problem("is damaged", found="decoding fails at 1.00 s", where="b.mp4", do="encode it again")
    scans = [
        scan(black=True, frozen=True, cuts=(0.5, 1.25), like="s/z.mp4", mirrored=True),
        scan("b", frozen=True, problems=(problem,)),
        scan("c", damaged_at=3.0, cuts=None),
    ]
    assert tasks(row(), row("b"), row("c"), scans=scans) == [
        ("s/b.mp4", "error", "is damaged", "decoding fails at 1.00 s"),
        ("s/a.mp4", "warning", "looks like another clip, mirrored", "s/z.mp4"),
        ("s/a.mp4", "warning", "black", "nine in ten frames or more"),
        ("s/a.mp4", "warning", "the scene changes", "at 0.50 s, 1.25 s"),
        ("s/b.mp4", "warning", "nothing moves", "all frames are the same picture"),
        ("s/c.mp4", "warning", "is damaged behind the part that is used", "from 3.00 s on"),
    ]


def test_many_cuts_are_shortened():
    ((_, _, _, found),) = tasks(row(), scans=[scan(cuts=tuple(map(float, range(7))))])
    assert found == "at 0.00 s, 1.00 s, 2.00 s, 3.00 s, 4.00 s ..."


def test_a_clip_that_is_left_out_is_not_looked_at_twice():
    problem = Problem("media file is empty", where="t.csv:b")
    bad = row("b", "left out", reason="media file is empty")
    assert len(tasks(bad, problems=[problem], scans=[scan("b", black=True, problems=(problem,))])) == 1


def test_equal_files_are_told_once():
    same = row(notes=("the same file as s/b.mp4",))
    assert [what for _, _, what, _ in tasks(same, scans=[scan(like="s/b.mp4")])] == ["the same file as"]


def test_captions_beyond_the_limit_are_told_by_the_longest():
    found = tasks(row(), row("b"), tokens={"s/a.mp4": (40, 90, 12), "s/b.mp4": (32,)}, limit=32)
    assert found == [("s/a.mp4", "warning", "the caption is longer than the text encoder reads", "90 of 32 tokens")]
    assert tasks(row(), tokens={"s/a.mp4": (90,)}) == []


def test_places_are_paths_of_tables_or_of_files():
    problem = Problem("x", where=str(Path("clips (1)") / "b (2).mp4"))
    bad = Row("s/b (2).mp4", problem.where, "s", "video", "left out", reason="x")
    assert [what for _, _, what, _ in tasks(bad, problems=[problem])] == ["x"]
