"""The moves of a scratch folder, one by one. `test_layout.py` has them together, under fire."""

import contextlib
from pathlib import Path

import pytest

from exporter.artifact import scratch


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exchange", [scratch.exchange, scratch.exchange_by_renames])
def test_two_folders_exchange_their_names(tmp_path, exchange):
    (tmp_path / "new" / "a").mkdir(parents=True)
    (tmp_path / "old" / "b").mkdir(parents=True)
    exchange(tmp_path / "new", tmp_path / "old")
    assert (names(tmp_path / "old"), names(tmp_path / "new")) == (["a"], ["b"])
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "new", tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "missing", tmp_path / "old")
    assert names(tmp_path) == ["new", "old"]
    assert (names(tmp_path / "old"), names(tmp_path / "new")) == (["a"], ["b"])


def test_the_leftovers_of_a_target_are_removed_and_nothing_else(tmp_path):
    leftover = f".model.saving-{'0' * 16}"
    others = [
        f".other.saving-{'0' * 16}",
        f".model.saving-{'0' * 15}",
        f".model.saving-{'g' * 16}",
        f"model.saving-{'0' * 16}",
        f".model.saving-x.saving-{'0' * 16}",
    ]
    for name in (leftover, *others):
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / "variables" / "a").write_bytes(b"half")
    file = tmp_path / f".model.saving-{'1' * 16}"
    file.touch()
    link = tmp_path / f".model.saving-{'2' * 16}"
    link.symlink_to(others[0])
    scratch.remove_leftovers(tmp_path / "model")
    assert names(tmp_path) == sorted([*others, file.name, link.name])


def test_a_scratch_folder_is_a_leftover_once_its_lock_is_gone(tmp_path):
    with scratch.beside(tmp_path / "model") as folder:
        scratch.remove_leftovers(tmp_path / "model")
        assert folder.is_dir()
        moved = folder.rename(tmp_path / "kept")
    left = moved.rename(folder)
    scratch.remove_leftovers(tmp_path / "model")
    assert not left.exists()


def test_a_folder_has_one_lock_holder_at_a_time(tmp_path):
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        assert scratch._lock(tmp_path, first)
        assert not scratch._lock(tmp_path, second)
        first.close()
        assert scratch._lock(tmp_path, second)


def test_a_folder_that_has_gone_cannot_be_locked(tmp_path):
    with contextlib.ExitStack() as held:
        assert not scratch._lock(tmp_path / "missing", held)


def test_missing_folders_are_made_and_existing_ones_left(tmp_path):
    scratch.make_folders(tmp_path / "a" / "b")
    scratch.make_folders(tmp_path / "a" / "b")
    assert names(tmp_path / "a") == ["b"]


def test_everything_below_a_folder_can_be_synced(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"")
    (tmp_path / "a" / "file").chmod(0o400)
    scratch.sync_all(tmp_path)
    with pytest.raises(FileNotFoundError):
        scratch.sync(tmp_path / "missing")
