from cinelora.config.lines import key_lines, line_of

TEXT = '''# comment
top = 1

[model]
family = "wan"  # [not] a table

[[data.source]]
path = "a"
[[data.source]]
path = "b"
frames = [
  1, # frames = 2
  17,
]
caption = """
[preview]
prompts = 3
"""
[data.source.inner]
deep.er = 5
"quoted key" = 6
[data]
crop = "centre"
'''


def test_every_key_has_its_line():
    lines = key_lines(TEXT)
    assert lines[("top",)] == 2
    assert lines[("model",)] == 4
    assert lines[("model", "family")] == 5
    assert lines[("data", "source", 0)] == 7
    assert lines[("data", "source", 0, "path")] == 8
    assert lines[("data", "source", 1, "path")] == 10
    assert lines[("data", "source", 1, "frames")] == 11
    assert lines[("data", "source", 1, "caption")] == 15
    assert lines[("data", "source", 1, "inner", "deep", "er")] == 20
    assert lines[("data", "source", 1, "inner", "quoted key")] == 21
    assert lines[("data", "crop")] == 23


def test_values_are_not_taken_for_keys():
    assert ("preview",) not in key_lines(TEXT)
    assert not any("prompts" in path for path in key_lines(TEXT))


def test_a_missing_key_has_the_line_of_its_table():
    lines = key_lines(TEXT)
    assert line_of(lines, ("model", "variant")) == 4
    assert line_of(lines, ("data", "source", 1, "nothing")) == 9
    assert line_of(lines, ("elsewhere",)) == 0
