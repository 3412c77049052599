"""Files that are read again when they are replaced."""

import pytest

from losswire_server.errors import StartupError
from losswire_server.reloading import Reloaded
from pem import replace


@pytest.fixture
def path(tmp_path):
    return replace(tmp_path / "file", b"first")


def reader(path, reads):
    """Reads a file, counts that, and refuses one that says so."""

    def read():
        reads.append(path)
        contents = path.read_bytes() if path.exists() else b"bad"
        if contents == b"bad":
            raise StartupError("file: it is bad")
        return contents

    return read


def test_files_are_read_when_they_change_and_not_otherwise(path):
    """One read at the start, one for each replacement, none for each look."""
    reads = []
    reloaded = Reloaded("file", [path], reader(path, reads))
    assert [reloaded.refresh() for _ in range(3)] == [False] * 3
    replace(path, b"other")
    assert [reloaded.refresh() for _ in range(3)] == [True, False, False]
    assert reloaded.value == b"other"
    assert len(reads) == 2


@pytest.mark.parametrize("change", [lambda path: replace(path, b"bad"), lambda path: path.unlink()])
def test_what_was_good_stays_until_something_good_comes(path, change):
    """A bad or missing file is said once in the log, and the value stays; then it is read again."""
    reads = []
    reloaded = Reloaded("file", [path], reader(path, reads))
    change(path)
    assert [reloaded.refresh(), reloaded.refresh()] == [False, False]
    assert reloaded.value == b"first"
    assert len(reads) == 2
    replace(path, b"later")
    assert reloaded.refresh()
    assert reloaded.value == b"later"


def test_a_bad_file_at_the_start_is_an_error(path):
    """There is nothing to fall back on then."""
    with pytest.raises(StartupError, match="it is bad"):
        Reloaded("file", [path], reader(replace(path, b"bad"), []))


def test_one_of_several_files_is_enough(path, tmp_path):
    """Any of the files makes all be read again, a link that points elsewhere too."""
    other = tmp_path / "link"
    other.symlink_to(path)
    reloaded = Reloaded("file", [tmp_path, other], reader(other, []))
    target = replace(tmp_path / "target", b"behind the link")
    other.unlink()
    other.symlink_to(target)
    assert reloaded.refresh()
    assert reloaded.value == b"behind the link"
