"""What is told and shown, in a terminal and in a pipe."""

from rich.table import Table

from stepseg.telling import counted, show_table, tell


def test_a_piped_table_keeps_all_its_columns(capsys, caplog):
    table = Table()
    for number in range(30):
        table.add_column(f"column {number}")
    table.add_row(*["0.123456789"] * 30)
    with caplog.at_level("INFO"):
        show_table(table)
    said = capsys.readouterr().out
    assert all(f"column {number}" in said for number in range(30))
    assert said.count("0.123456789") == caplog.text.count("0.123456789") == 30


def test_told_lines_are_logged(caplog, capsys):
    with caplog.at_level("INFO"):
        tell("a line")
    assert capsys.readouterr().err == "a line\n"
    assert caplog.messages == ["a line"]


def test_one_of_a_thing_is_no_number_of_things():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
