"""A result is there as a whole or not at all, wherever a disk fails."""

import pytest

from quatrain.errors import OutputError
from quatrain.files import Files, check_free, written_aside
from tests.training.faults import FaultyFiles, fail


def write_two(folder, files: Files | None = None):
    with written_aside(folder, files) as aside:
        (aside / "a").write_text("new a")
        (aside / "b").write_text("new b")


def test_a_folder_appears_as_a_whole(tmp_path):
    write_two(tmp_path / "deep" / "out")
    assert [path.read_text() for path in sorted((tmp_path / "deep" / "out").iterdir())] == ["new a", "new b"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_files_of_the_same_names_are_replaced_and_others_stay(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old a")
    (tmp_path / "out" / "c").write_text("old c")
    write_two(tmp_path / "out")
    assert [path.read_text() for path in sorted((tmp_path / "out").iterdir())] == ["new a", "new b", "old c"]


def test_wherever_the_disk_fails_nothing_or_all_is_there(tmp_path):
    rehearsal = FaultyFiles(fail)
    write_two(tmp_path / "rehearsal", rehearsal)
    for point in range(len(rehearsal.points)):
        out = tmp_path / f"out-{point}"
        try:
            write_two(out, FaultyFiles(fail, [point]))
        except OutputError as error:
            assert "No space left" in str(error)
        assert not out.exists() or len(list(out.iterdir())) == 2


def test_an_error_of_the_body_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), written_aside(tmp_path / "out") as aside:
        (aside / "a").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_is_left_of_a_process_that_was_killed_is_cleared_away(tmp_path):
    (tmp_path / ".out.writing").mkdir()
    (tmp_path / ".out.writing" / "old").touch()
    write_two(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]


def test_an_occupied_place_is_refused_before_any_work(tmp_path):
    check_free(tmp_path / "new")
    check_free(tmp_path)
    (tmp_path / "file").touch()
    for occupied in (tmp_path, tmp_path / "file"):
        with pytest.raises(OutputError, match="holds something"):
            check_free(occupied)
