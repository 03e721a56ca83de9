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
