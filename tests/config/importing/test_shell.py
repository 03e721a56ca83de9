"""Shell text without a shell: words, lines, variables, and what only running could tell."""

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.config.importing.launchers import launch_of
from cinelora.config.importing.shell import problems_of, read_shell


def words(text):
    """The words of each command."""
    return [[word.text for word in command.words] for command in read_shell(text, "run.sh").commands]


def told(text):
    """Problems of the last command's words, as what and where."""
    command = read_shell(text, "run.sh").commands[-1]
    return [(problem.what, problem.found, problem.where) for problem in problems_of(command.words)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b # c", [["a", "b"]]),
        ("a#b 'c # d'", [["a#b", "c # d"]]),
        ("a \\\n  b\nc; d && e | f", [["a", "b"], ["c"], ["d"], ["e"], ["f"]]),
        ("""a 'it'"'"'s' "x y" z\\ w""", [["a", "it's", "x y", "z w"]]),
        ("a > out.txt 2>&1 < in.txt b &", [["a", "b"]]),
        ("cat <<EOF\npython x.py\nEOF\nlast", [["cat"], ["last"]]),
        ("a <CACHE_DIR> --b=<PATH_TO_IT>/x", [["a", "<CACHE_DIR>", "--b=<PATH_TO_IT>/x"]]),
        ('a ""', [["a", ""]]),
        ("a\r\nb \\\r\n c\r\n", [["a"], ["b", "c"]]),
    ],
)
def test_words_are_those_of_a_shell(text, expected):
    assert words(text) == expected


# Windows' line ends are read as line ends, and fences as fences, wherever they stand.
LETTERS = st.characters(codec="ascii", exclude_characters="\0\r")


@given(st.lists(st.text(LETTERS, max_size=8).filter(lambda word: "```" not in word), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_what_shlex_quotes_comes_back(found):
    assert words("x " + shlex.join(found)) == [["x", *found]]


EXPANSIONS = """A="x y"
B=z
C=$A$B
E=
ARGS=(--a 1 "$A"
  --b)
ARGS+=(--c)
show $A "$A" ${B} "${C}" ${D:-4} ${D-5} "${E:-6}" $E "$E" $B$B x"$B"y '$B' "\\$B" "${ARGS[@]}" "$@" end
"""


def test_expansions_are_those_of_bash():
    script = EXPANSIONS + 'show "${B}-$A" -$B- $A$B\n'
    ours = [line for line in words(script) if line[0] == "show"]
    shown = 'show() { printf "%s\\0" "$@"; printf "\\n\\0"; }\n'
    output = subprocess.run(["bash", "-c", shown + script], capture_output=True, check=True, text=True).stdout
    theirs, line = [], ["show"]
    for word in output.split("\0"):
        if word == "\n":
            theirs.append(line)
            line = ["show"]
        else:
            line.append(word)
    assert ours == theirs


def test_lines_and_names_stand_with_the_words():
    script = read_shell("M=a\n\nrun --x=$M \\\n  --y \\\n  --z=1\n", "run.sh")
    assert [(word.text, word.line) for word in script.commands[0].words] == [
        ("run", 3),
        ("--x=a", 3),
        ("--y", 4),
        ("--z=1", 5),
    ]
    assert script.commands[0].words[1].names == {"M"}


def test_exported_variables_are_told_from_others():
    script = read_shell('export A=1 B="2 3"\nC=4\nD=5\nexport D\nunset A\nE=6 run', "run.sh")
    assert {name: (one.text, one.exported) for name, one in script.variables.items()} == {
        "B": ("2 3", True),
        "C": ("4", False),
        "D": ("5", True),
    }
    assert {name: word.text for name, word in script.commands[-1].sets.items()} == {"E": "6"}


def test_what_only_running_could_tell_is_told_where_it_stands():
    assert told("x\nrun --a $(date) `b` $1") == [
        ("this is known only when it is run", "$(date)", "run.sh:2"),
        ("this is known only when it is run", "`b`", "run.sh:2"),
        ("this is known only when it is run", "$1", "run.sh:2"),
    ]
    assert told("run --a 'b") == [("a quote that is never closed", "a quote that is never closed", "run.sh:1")]
    assert told("run ${A%x}")[0][0] == "this is known only when it is run"


def test_a_variable_that_is_not_set_names_the_nearest():
    command = read_shell("MODEL_NAME=a\nrun $MODEL_NAM", "run.sh").commands[-1]
    (problem,) = problems_of(command.words)
    assert (problem.what, problem.nearest) == ("$MODEL_NAM is not set in this text", "MODEL_NAME")


def test_only_what_is_used_is_told():
    assert told('echo "$(date)" $NO\nrun --a 1') == []


def test_values_of_conditions_are_not_known_and_commands_in_loops_are_marked():
    text = "A=1\nif [ x ]; then\n  A=2\n  run $A\nfi\nfor i in 1 2; do\n  run $i\ndone\nf() {\n  run\n}\nrun $A"
    script = read_shell(text, "run.sh")
    inside = [command.inside for command in script.commands if command.words[0].text == "run"]
    assert inside == ["if (line 2)", "for loop (line 6)", "function f (line 9)", ""]
    assert told(text) == [("$A is set inside a loop or condition: if (line 2)", "", "run.sh:3")]


def test_a_backslash_before_blanks_or_a_comment_is_read_as_meant_and_told():
    script = read_shell("run \\  # why\n  --a 1 \\ \n  --b\n", "run.sh")
    assert [word.text for word in script.commands[0].words] == ["run", "--a", "1", "--b"]
    assert [note.partition(": ")[0] for note in script.notes] == ["run.sh:1", "run.sh:2"]


def test_a_value_with_blanks_behind_a_flag_stays_one_and_is_told():
    script = read_shell('A="your address"\nrun --ip=$A --port $A', "run.sh")
    assert [word.text for word in script.commands[0].words] == ["run", "--ip=your address", "--port", "your", "address"]
    assert len(script.notes) == 1


def test_outside_of_fences_nothing_is_read_and_lines_stay():
    script = read_shell("Run `this`:\n```sh\nrun $(x)\n```\nIt's done.\n~~~\nlast\n~~~\n", "page.md")
    assert [(command.words[0].text, command.line) for command in script.commands] == [("run", 3), ("last", 7)]
    assert script.starts == (3, 7)


@pytest.mark.parametrize("odd", ["it's a table", 'a,"""b', "for x in range(3):", "if x:", "(", "a = [$(", "cat <<EOF"])
def test_what_a_block_leaves_open_ends_with_it(odd):
    script = read_shell(f"```\n{odd}\n```\n```sh\nA=b\nrun $A\n```\n```\nopen $A", "page.md")
    found = [(command.words[0].text, command.words[-1].text, command.line) for command in script.commands[-2:]]
    assert found == [("run", "b", 6), ("open", "b", 9)]
    assert not script.commands[-1].inside


@pytest.mark.parametrize(
    "text", ["'", '"', "$(", "${", "`", "\\", "<<EOF\nx", "(", ")", "a=(", "if", "${A:-${B:-", "<a"]
)
def test_broken_text_ends(text):
    read_shell(text, "run.sh")
    read_shell(f"run {text}\n", "run.sh")


@given(st.text(alphabet="ab$(){}[]<>|&;'\"`\\\n#= @:-", max_size=30))
@settings(max_examples=400, deadline=None)
def test_no_text_is_too_odd_to_read(text):
    for command in read_shell(text, "run.sh").commands:
        launch_of(command, "run.sh")


def launch(text):
    found = [one for command in read_shell(text, "run.sh").commands if (one := launch_of(command, "run.sh"))]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("text", "words_", "program", "rest"),
    [
        ("python a.py --x", ["python"], "a.py", ["--x"]),
        ("nohup python3 -u -W ignore s/a.py 1", ["python"], "s/a.py", ["1"]),
        ("python -m pack.age.train --x", ["python"], "pack/age/train.py", ["--x"]),
        ("./a.py --x", ["python"], "./a.py", ["--x"]),
        (
            "accelerate launch --use-deepspeed --zero_stage 2 --gpu_ids=0,1 a.py --use_deepspeed",
            ["accelerate", "launch", "--use_deepspeed", "--zero_stage=2", "--gpu_ids=0,1"],
            "a.py",
            ["--use_deepspeed"],
        ),
        ("accelerate launch --num_proc 2 -m a.b", ["accelerate", "launch", "--num_processes=2"], "a/b.py", []),
        ("python -m torch.distributed.launch --use_env --nproc_per_node 2 a.py", None, "a.py", []),
        ("torchrun --standalone --nproc-per-node=2 a.py", None, "a.py", []),
        ("uv run accelerate launch a.py", ["accelerate", "launch"], "a.py", []),
        ("deepspeed --num_gpus=1 -i x:0 a.py --deepspeed", None, "a.py", ["--deepspeed"]),
        ("$ python a.py", ["python"], "a.py", []),
    ],
)
def test_launchers_end_where_the_program_begins(text, words_, program, rest):
    found = launch(text)
    assert found.problems == ()
    assert (found.program, [word.text for word in found.rest]) == (program, rest)
    if words_ is not None:
        assert found.words() == words_


def test_a_launcher_without_its_flag_names_the_nearest():
    (problem,) = launch("accelerate launch --mixed_precison=bf16 a.py").problems
    assert (problem.found, problem.nearest.partition(",")[0]) == ("--mixed_precison", "--mixed_precision")


def test_the_environment_before_a_command_is_kept():
    found = launch("CUDA_VISIBLE_DEVICES=0 env A=b python a.py")
    assert {name: word.text for name, word in found.env.items()} == {"CUDA_VISIBLE_DEVICES": "0", "A": "b"}


def test_the_tables_of_launchers_are_those_of_the_installed_programs():
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    from cinelora.config.importing.launchers import ACCELERATE, TORCHRUN

    for parser, launcher in ((launch_command_parser(), ACCELERATE), (get_args_parser(), TORCHRUN)):
        for action in parser._actions:
            names = {one.lstrip("-").replace("-", "_") for one in action.option_strings if one.startswith("--")}
            known = launcher.switches if action.nargs == 0 else launcher.values
            assert names <= known, names
            short = [one for one in action.option_strings if not one.startswith("--")]
            assert all(launcher.short[one] in names for one in short)
