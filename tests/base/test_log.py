from cinelora.base import log


def test_lines_tell_how_far_and_how_long(monkeypatch, capsys):
    now = iter([0.0, *(3.0 * k for k in range(1, 9))])
    monkeypatch.setattr(log.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(log, "console", log.Console(stderr=True, highlight=False, width=100))
    with log.progress("encode", 8) as advance:
        for _ in range(8):
            advance(note="x")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["encode: 4/8, about 12 s left x", "encode: 8/8, about 0 s left x"]


def test_track_passes_items_on():
    assert list(log.track([3, 1, 2], "work", 3)) == [3, 1, 2]


def test_a_log_has_whole_lines_and_wide_tables(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    opened = log.open_console()
    opened.print("[red] " + "x" * 300)
    assert capsys.readouterr().out == "[red] " + "x" * 300 + "\n"
    assert opened.width > 100
    monkeypatch.setenv("COLUMNS", "60")
    assert log.open_console().width == 60
