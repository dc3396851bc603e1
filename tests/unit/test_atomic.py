import os
import re

import pytest

from webbkg.errors import OutputError
from webbkg.io.atomic import check_free, make_directory, replacing


def write(target, content, *, error=None, overwrite=False):
    """Write a file as products are written, and maybe fail on the way."""
    with replacing(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)
        if error is not None:
            raise error


def test_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "a.fits"
    with replacing(target) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


def test_temporary_name_does_not_look_like_a_product(tmp_path):
    with replacing(tmp_path / "a_bsub.fits") as temporary:
        temporary.touch()
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".part"
        assert not list(tmp_path.glob("*.fits"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write(tmp_path / "a.fits", b"half", error=error)
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.fits"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write(target, b"half", error=RuntimeError, overwrite=True)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_existing_target_is_refused_before_any_work(tmp_path):
    target = tmp_path / "a.fits"
    target.write_bytes(b"old")
    message = f"{target}: exists already; use --overwrite to replace it"
    for refuse in (lambda: replacing(target).__enter__(), lambda: check_free(target, overwrite=0)):
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            refuse()
    assert target.read_bytes() == b"old"


def test_overwrite(tmp_path):
    target = tmp_path / "a.fits"
    target.write_bytes(b"old")
    with replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    target = tmp_path / "a.fits"
    with replacing(target, overwrite=True) as one, replacing(target, overwrite=True) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert target.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [target]


def test_missing_directory(tmp_path):
    target = tmp_path / "none" / "a.fits"
    message = f"{target}: cannot be written (No such file or directory)"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        write(target, b"whole")


def test_full_disk(tmp_path):
    target = tmp_path / "a.fits"
    message = f"{target}: cannot be written (No space left on device)"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        write(target, b"half", error=OSError(28, os.strerror(28)))
    assert list(tmp_path.iterdir()) == []


def test_target_that_is_a_directory(tmp_path):
    target = tmp_path / "a.fits"
    target.mkdir()
    message = f"{target}: cannot be written (Is a directory)"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        write(target, b"whole", overwrite=True)
    assert list(tmp_path.iterdir()) == [target]


def test_directories_are_made(tmp_path):
    made = make_directory(tmp_path / "a" / "b")
    assert made == tmp_path / "a" / "b"
    assert made.is_dir()
    assert make_directory(made) == made
    assert list(made.iterdir()) == []


def test_directory_that_is_a_file(tmp_path):
    path = tmp_path / "out"
    path.touch()
    message = (
        f"{path}: not a directory that can be written to (File exists); choose another with -o"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        make_directory(path)


def test_directory_below_a_file(tmp_path):
    (tmp_path / "out").touch()
    path = tmp_path / "out" / "deeper"
    message = (
        f"{path}: not a directory that can be written to (Not a directory); choose another with -o"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        make_directory(path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_directory_without_permission(tmp_path):
    path = tmp_path / "out"
    path.mkdir(mode=0o500)
    message = (
        f"{path}: not a directory that can be written to (Permission denied); choose another "
        "with -o"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        make_directory(path)
