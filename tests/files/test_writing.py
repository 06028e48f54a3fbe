"""Files are written whole or not at all, under names that nobody else can choose, with the rights they should have."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from consistentid.errors import InputError
from consistentid.files import writing
from consistentid.files.writing import (
    UNFINISHED,
    check_folder,
    remove_unfinished,
    replacing,
    replacing_folder,
    save_new,
    write_whole,
)

posix = pytest.mark.skipif(os.name == "nt", reason="rights as POSIX has them")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half" * (1 // 0))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_never_share_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers that share the folder
    with replacing(tmp_path / "a.npz") as one, replacing(tmp_path / "a.npz") as two:
        np.savez(one, x=[1])
        np.savez(two, x=[2])
        assert one != two
        assert one.suffix == two.suffix == ".npz"
    assert np.load(tmp_path / "a.npz")["x"] == [1]  # who is last counts, whole
    assert names(tmp_path) == ["a.npz"]


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".txt")
    write_whole(path, "x")
    assert path.read_text() == "x"
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / ("a" * 300), "x")
    with pytest.raises(InputError, match="cannot be written"):
        check_folder(tmp_path / ("a" * 300))


@posix
@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_rights_are_the_umask_s_whoever_writes(tmp_path: Path, umask: int, rights: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "model.safetensors") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)  # gives its files to their owner alone
            temporary.chmod(0o600)
        with replacing(tmp_path / "who.safetensors", private=True) as temporary:
            save_file({"x": torch.zeros(1)}, temporary)
            temporary.chmod(0o666)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == rights
    assert stat.S_IMODE((tmp_path / "who.safetensors").stat().st_mode) == 0o600


def test_durable_files_reach_the_disk_before_their_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(writing, "_sync", lambda path: done.append("folder" if path == tmp_path else path.name))
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        done.append("replaced")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    with replacing(tmp_path / "a", durable=True) as temporary:
        temporary.write_text("x")
    assert done == [temporary.name, "replaced", "folder"]
    done.clear()
    with replacing_folder(tmp_path / "b", durable=True) as temporary:
        (temporary / "inside").write_text("x")
    assert done == ["inside", temporary.name, "replaced", "folder"]


def test_syncing_works_on_this_system(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "x", durable=True)
    with replacing_folder(tmp_path / "b", durable=True) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "c").write_text("x")
    assert (tmp_path / "b/deep/c").read_text() == "x"


def test_a_folder_takes_another_s_place_or_leaves_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "run") as temporary:
            (temporary / text).touch()
    assert names(tmp_path / "run") == ["new"]
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "run") as temporary:
        (temporary / "half").write_text("x" * (1 // 0))
    assert names(tmp_path / "run") == ["new"]
    assert names(tmp_path) == ["run"]


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a: the disk is full; free some space"), replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    # safetensors has an error of its own, that quotes the system's
    with pytest.raises(InputError, match="the disk is full"), replacing(tmp_path / "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert not names(tmp_path)


def test_a_file_that_fails_inside_a_folder_is_named_as_it_would_have_been(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, replacing_folder(tmp_path / "run") as temporary:  # noqa: SIM117
        with replacing(temporary / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).startswith(f"{tmp_path / 'run' / 'a'}: the disk is full")
    assert not names(tmp_path)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for attempt in (lambda: write_whole(tmp_path / "a/b", ""), lambda: save_new(tmp_path / "a/b", b"")):
        with pytest.raises(InputError, match="cannot be written"):
            attempt()
    with pytest.raises(InputError, match="is a file; name a folder"):
        check_folder(tmp_path / "a/b")


def test_new_files_get_names_of_their_own(tmp_path: Path) -> None:
    names = [save_new(tmp_path / "a.png", bytes([n])).name for n in range(3)]
    assert names == ["a.png", "a-2.png", "a-3.png"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"\0", b"\1", b"\2"]


def test_what_a_killed_process_leaves_is_known_and_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from consistentid.files.writing import replacing, replacing_folder\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with replacing(folder / 'deep/a.txt') as x, replacing_folder(folder / 'b') as y:\n"
        "    x.write_text('half'); (y / 'c').touch(); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert len(list(tmp_path.rglob(f"{UNFINISHED}*"))) == 2
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]
