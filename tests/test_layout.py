"""The folder's promises: it appears whole or not at all, and what is damaged is named."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.artifact import blocks, layout
from exporter.artifact.layout import (
    MANIFEST,
    FileRecord,
    check_target,
    inside,
    is_artifact,
    record_files,
    staged,
    verify,
)
from exporter.errors import ArtifactError, ArtifactExistsError, ArtifactNotFoundError

ROOT = Path(__file__).resolve().parent.parent


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def save(target: Path, version: str, *, overwrite: bool = False) -> None:
    """A small artifact whose manifest and files all say which version they are of."""
    with staged(target, overwrite=overwrite) as folder:
        write_files(folder, {"programs/f.mlirbc": version.encode(), MANIFEST: version.encode()})


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def version_of(target: Path) -> str:
    found = set(content(target).values())
    assert len(found) == 1, found
    return found.pop().decode()


# What a save may be aimed at.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "expected the path of a folder to save to, got ''. Pass a local path, for example"),
        (None, "expected the path of a folder to save to, got None. Pass a local path"),
        (7, "expected the path of a folder to save to, got 7."),
        (b"digits", "expected the path of a folder to save to, got b'digits'."),
        ("a\0b", "expected the path of a folder to save to, got 'a\\x00b'."),
        ("gs://bucket/digits/1", "cannot save to 'gs://bucket/digits/1': only local folders"),
        (Path("gs://bucket/digits"), "cannot save to 'gs:/bucket/digits': only local folders"),
        ("file:///models", "cannot save to 'file:///models': only local folders"),
        ("/proc", "cannot save to '/proc': it is a mount point, which cannot be replaced."),
        ("/", "cannot save to '/': it is a mount point"),
    ],
)
def test_a_path_that_is_not_one_of_a_local_folder_is_refused(path, message):
    with pytest.raises(ArtifactError) as caught:
        check_target(path, overwrite=True)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("files", "overwrite", "message"),
    [
        (None, False, None),
        (None, True, None),
        ({}, False, None),
        ({}, True, None),
        ({MANIFEST: b"{}"}, True, None),
        (
            {
                MANIFEST: b"{}",
                "programs/f": b"",
                "variables/v": b"",
                "assets/a": b"",
                "samples/s": b"",
            },
            True,
            None,
        ),
        (
            {MANIFEST: b"{}"},
            False,
            "there is an artifact already. Pass overwrite=True, or save to another path.",
        ),
        (
            {"thesis.tex": b"years", "notes/b": b""},
            False,
            "it is a folder that is not an artifact and holds 'notes', 'thesis.tex'. Such a folder "
            "is never overwritten. Save to a path that does not exist.",
        ),
        (
            dict.fromkeys("edcba", b""),
            True,
            "it is a folder that is not an artifact and holds 'a', 'b', 'c' and 2 more. Such a "
            "folder is never overwritten. Save to a path that does not exist.",
        ),
        ({"programs/f": b""}, True, "it is a folder that is not an artifact and holds 'programs'."),
        ({f"{MANIFEST}/a": b""}, True, "it is a folder that is not an artifact"),
        (
            {MANIFEST: b"{}", "README.md": b"mine"},
            True,
            "beside the artifact there, the folder holds 'README.md', which no save wrote and "
            "overwriting would delete. Move that away first, or save to another path.",
        ),
    ],
)
def test_what_is_at_the_target_decides_whether_it_may_be_saved_to(
    tmp_path, files, overwrite, message
):
    target = tmp_path / "model"
    if files is not None:
        target.mkdir()
        write_files(target, files)
    if message is None:
        assert check_target(target, overwrite=overwrite) == target
        return
    with pytest.raises(ArtifactExistsError) as caught:
        check_target(target, overwrite=overwrite)
    assert str(caught.value).startswith(f"cannot save to '{target}': {message}")
    assert isinstance(caught.value, FileExistsError)
    assert content(target) == files


def test_a_file_is_never_a_target(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ArtifactExistsError, match="it is not a folder. Remove it first"):
        check_target(tmp_path / "model", overwrite=True)


def test_a_file_above_the_target_is_named(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ArtifactError, match=f"Not a directory: '{tmp_path / 'model'}'"):
        check_target(tmp_path / "model" / "1", overwrite=False)


def test_checking_a_target_creates_nothing(tmp_path):
    assert check_target(tmp_path / "a" / "b", overwrite=False) == tmp_path / "a" / "b"
    assert names(tmp_path) == []


def test_a_relative_target_stays_where_it_was_when_the_working_directory_changes(
    tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with staged("model", overwrite=False) as folder:
        (folder / MANIFEST).touch()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert is_artifact(tmp_path / "model")


# root may write anywhere, so the child becomes somebody else, after it has imported what it needs.
READ_ONLY = """
import os, sys
from exporter.artifact.layout import check_target, staged
if os.geteuid() == 0:
    os.setuid(65534)
for attempt in (check_target, lambda *a, **k: staged(*a, **k).__enter__()):
    try:
        attempt(sys.argv[1], overwrite=False)
    except Exception as error:
        print(type(error).__name__, error, type(error.__cause__).__name__, sep="|")
"""


@pytest.mark.parametrize("below", ["model", "new/model"])
def test_a_parent_that_cannot_be_written_is_refused_before_anything_else(below):
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o555)
        target = f"{parent}/{below}"
        done = run_child(READ_ONLY, target)
        message = (
            f"ArtifactError|cannot save to '{target}': [Errno 13] Permission denied: '{parent}'. "
            "Save to a folder that this process may write to, on a disk with room for it."
            "|PermissionError"
        )
        assert done.splitlines() == [message, message]
        assert names(Path(parent)) == []


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def run_child(code: str, *arguments: object) -> str:
    with child(code, *arguments) as process:
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return output


# Appearing whole.


def test_a_save_creates_the_parents_and_leaves_nothing_beside_the_target(tmp_path):
    target = tmp_path / "models" / "digits" / "1"
    save(target, "new")
    assert content(target) == {MANIFEST: b"new", "programs/f.mlirbc": b"new"}
    assert names(target.parent) == ["1"]


def test_nothing_is_at_the_target_until_the_block_ends(tmp_path):
    with staged(tmp_path / "model", overwrite=False) as folder:
        (folder / MANIFEST).touch()
        assert folder.parent == tmp_path
        assert not (tmp_path / "model").exists()
    assert is_artifact(tmp_path / "model")


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    save(tmp_path / "model", "new")
    assert version_of(tmp_path / "model") == "new"


def test_an_artifact_is_replaced_only_when_asked(tmp_path):
    save(tmp_path / "model", "old")
    with pytest.raises(ArtifactExistsError):
        save(tmp_path / "model", "new")
    assert version_of(tmp_path / "model") == "old"
    save(tmp_path / "model", "new", overwrite=True)
    assert version_of(tmp_path / "model") == "new"
    assert names(tmp_path) == ["model"]


def test_a_target_that_is_a_link_is_replaced_where_it_points(tmp_path):
    save(tmp_path / "1", "old")
    (tmp_path / "latest").symlink_to("1")
    save(tmp_path / "latest", "new", overwrite=True)
    assert (tmp_path / "latest").readlink() == Path("1")
    assert version_of(tmp_path / "1") == "new"


def test_the_artifact_has_the_permissions_of_any_new_folder(tmp_path):
    save(tmp_path / "model", "new")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("exists", [False, True])
def test_a_save_that_fails_leaves_the_target_as_it_was(tmp_path, failure, exists):
    if exists:
        save(tmp_path / "model", "old")
    with pytest.raises(failure), staged(tmp_path / "model", overwrite=True) as folder:
        write_files(folder, {MANIFEST: b"new", "programs/f.mlirbc": b"new"})
        raise failure
    assert names(tmp_path) == (["model"] if exists else [])
    assert not exists or version_of(tmp_path / "model") == "old"


def test_a_save_without_a_manifest_is_a_fault_of_ours(tmp_path):
    fault = pytest.raises(AssertionError, match="a save ends by writing its manifest")
    with fault, staged(tmp_path / "model", overwrite=False):
        pass
    assert names(tmp_path) == []


def test_a_link_in_the_scratch_folder_is_refused(tmp_path):
    refusal = pytest.raises(ArtifactError, match="files and folders only, and '.*label.txt' is")
    with refusal, staged(tmp_path / "model", overwrite=False) as folder:
        (folder / MANIFEST).touch()
        (folder / "label.txt").symlink_to("/etc/hostname")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("appearing", "overwrite", "message"),
    [
        ({MANIFEST: b"theirs"}, False, "there is an artifact already"),
        ({"thesis.tex": b"years"}, False, "it is a folder that is not an artifact"),
        ({"thesis.tex": b"years"}, True, "it is a folder that is not an artifact"),
        ({MANIFEST: b"theirs", "README.md": b""}, True, "beside the artifact there"),
    ],
)
def test_what_appears_during_a_save_is_not_replaced(tmp_path, appearing, overwrite, message):
    refusal = pytest.raises(ArtifactExistsError, match=message)
    with refusal, staged(tmp_path / "model", overwrite=overwrite) as folder:
        (folder / MANIFEST).touch()
        (tmp_path / "model").mkdir()
        write_files(tmp_path / "model", appearing)
    assert names(tmp_path) == ["model"]
    assert content(tmp_path / "model") == appearing


def test_a_file_that_appears_during_a_save_is_not_replaced(tmp_path):
    refusal = pytest.raises(ArtifactExistsError, match="it is not a folder")
    with refusal, staged(tmp_path / "model", overwrite=True) as folder:
        (folder / MANIFEST).touch()
        (tmp_path / "model").write_text("mine")
    assert (tmp_path / "model").read_text() == "mine"


def test_an_artifact_that_appears_during_a_save_is_replaced_when_asked(tmp_path):
    with staged(tmp_path / "model", overwrite=True) as folder:
        (folder / MANIFEST).write_text("ours")
        save(tmp_path / "model", "theirs")
    assert content(tmp_path / "model") == {MANIFEST: b"ours"}


def test_a_target_that_vanishes_during_a_save_is_made_anew(tmp_path):
    save(tmp_path / "model", "old")
    with staged(tmp_path / "model", overwrite=True) as folder:
        (folder / MANIFEST).write_text("new")
        (tmp_path / "model").rename(tmp_path / "moved")
    assert version_of(tmp_path / "model") == "new"
    assert version_of(tmp_path / "moved") == "old"


# Crashes and rivals.


def test_a_save_that_is_under_way_is_no_leftover(tmp_path):
    with staged(tmp_path / "model", overwrite=True) as slow:
        (slow / MANIFEST).write_text("slow")
        save(tmp_path / "model", "quick")
        assert slow.is_dir()
        assert version_of(tmp_path / "model") == "quick"
    assert content(tmp_path / "model") == {MANIFEST: b"slow"}
    assert names(tmp_path) == ["model"]


# Saves version after version: files of random number and size that all begin with the version, and
# a manifest that lists their digests. Prints a line for each version that it has finished.
SAVER = f"""
import json, random, sys
from exporter.artifact.layout import record_files, staged
target, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(seed)
for number in range(count):
    version = f"{{seed}}.{{number}}"
    with staged(target, overwrite=True) as folder:
        (folder / "variables").mkdir()
        for index in range(chance.randint(1, 6)):
            with (folder / "variables" / str(index)).open("wb") as file:
                file.write(version.encode() + b" ")
                for _ in range(chance.randint(0, 8)):
                    file.write(chance.randbytes(chance.randint(0, 50_000)))
        records = [vars(record) for record in record_files(folder)]
        (folder / "{MANIFEST}").write_text(json.dumps({{"version": version, "files": records}}))
    print(version, flush=True)
"""


def complete_version(target: Path) -> str:
    """The version at `target`, after checking that each of its files is there and of it."""
    manifest = json.loads((target / MANIFEST).read_text())
    records = [FileRecord(**each) for each in manifest["files"]]
    verify(target, records)
    assert sorted(content(target)) == sorted([MANIFEST, *(record.path for record in records)])
    for record in records:
        assert (target / record.path).read_bytes().split(b" ")[0].decode() == manifest["version"]
    return manifest["version"]


def test_a_save_killed_at_any_moment_leaves_the_old_artifact_or_the_new(tmp_path):
    target, chance, leftovers = tmp_path / "model", random.Random(0), 0
    for kill in range(36):
        with child(SAVER, target, kill, 10**9) as process:
            assert process.stdout is not None
            # Every third is killed while it starts or writes its first version.
            finished = [] if kill % 3 == 0 else [process.stdout.readline().strip()]
            time.sleep(chance.uniform(0, 0.05 if finished else 0.2))
            process.send_signal(signal.SIGKILL)
            finished += process.stdout.read().split()
        leftovers += len(names(tmp_path)) - target.exists()
        if not target.exists():
            assert not finished
            continue
        # The version that was under way may have moved into place before it was reported.
        child_seed, number = complete_version(target).split(".")
        assert int(child_seed) <= kill
        if finished:
            assert int(child_seed) == kill
            assert len(finished) - 1 <= int(number) <= len(finished)
    assert leftovers >= 5, "few kills hit a save under way: this test has checked too little"
    save(target, "after", overwrite=True)
    assert names(tmp_path) == ["model"]


def test_rivals_replace_one_artifact_and_it_is_whole_at_every_moment(tmp_path):
    target, versions = tmp_path / "model", 12
    run_child(SAVER, target, "first", 1)
    with contextlib.ExitStack() as stack:
        savers = [
            stack.enter_context(child(SAVER, target, f"saver{number}", versions))
            for number in range(3)
        ]
        looks = 0
        while any(saver.poll() is None for saver in savers):
            assert is_artifact(target)
            looks += 1
        for saver in savers:
            output, errors = saver.communicate(timeout=30)
            assert saver.returncode == 0, errors
            assert len(output.split()) == versions
    assert looks > 100
    assert complete_version(target).split(".")[1] == str(versions - 1)
    assert names(tmp_path) == ["model"]


def test_of_rivals_that_may_not_overwrite_exactly_one_wins(tmp_path):
    code = SAVER.replace("overwrite=True", "overwrite=False")
    with contextlib.ExitStack() as stack:
        savers = [stack.enter_context(child(code, tmp_path / "model", n, 1)) for n in range(4)]
        results = [(saver.communicate(timeout=30), saver.returncode) for saver in savers]
    winners = [output.strip() for (output, _), code in results if code == 0]
    assert winners == [complete_version(tmp_path / "model")]
    losers = [errors for (_, errors), code in results if code != 0]
    assert all("ArtifactExistsError: cannot save to" in errors for errors in losers)
    assert names(tmp_path) == ["model"]


# Digests.


def test_records_are_sorted_and_hold_every_file_but_the_manifest(tmp_path):
    files = {
        "variables/b": b"abc",
        "variables/a/z": b"",
        "variables-2": b"x" * 5,
        f"assets/{MANIFEST}": b"not the manifest",
        "assets/größe.txt": b"",
    }
    write_files(tmp_path, {MANIFEST: b"{}", **files})
    (tmp_path / "samples").mkdir()
    records = record_files(tmp_path)
    assert [record.path for record in records] == sorted(files)
    assert {record.path: record.size for record in records} == {
        name: len(data) for name, data in files.items()
    }
    digests = {record.path: record.blake3 for record in records}
    # From the paper's test vectors and the reference implementation's documentation.
    assert digests["variables/a/z"] == (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )
    assert digests["variables/b"] == (
        "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    )


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_file_of_several_blocks_has_the_digest_of_its_whole_content(tmp_path, extra):
    data = random.Random(extra).randbytes(2 * blocks.BLOCK_BYTES + extra)
    write_files(tmp_path, {"variables/a": data})
    (record,) = record_files(tmp_path)
    assert record == FileRecord("variables/a", len(data), blake3.blake3(data).hexdigest())
    verify(tmp_path, [record])


@pytest.mark.parametrize(("name", "message"), [("a\\b", "a backslash"), ("C:a", "a drive letter")])
def test_a_file_that_other_systems_could_not_read_is_not_recorded(tmp_path, name, message):
    write_files(tmp_path, {name: b""})
    with pytest.raises(ArtifactError, match=message):
        record_files(tmp_path)


def test_a_pipe_is_not_recorded(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="files and folders only, and '.*pipe' is neither"):
        record_files(tmp_path)


parts = st.text(st.characters(exclude_characters="/\\\0", codec="utf-8"), min_size=1, max_size=8)
trees = st.dictionaries(
    parts.filter(lambda part: layout._fault_in_name(part) is None and part != MANIFEST),
    st.binary(max_size=40),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(files=trees, data=st.data())
def test_what_was_recorded_verifies_and_any_damage_to_it_is_named(files, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, files)
        records = record_files(folder)
        verify(folder, records)
        victim = data.draw(st.sampled_from(records))
        damaged = data.draw(st.binary(max_size=41) | st.none())
        path = folder / victim.path
        original = path.read_bytes()
        path.unlink() if damaged is None else path.write_bytes(damaged)
        if damaged == original:
            verify(folder, records)
            return
        with pytest.raises(ArtifactError) as caught:
            verify(folder, records)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{victim.path}: ")


def test_every_kind_of_damage_is_reported_in_one_error(tmp_path):
    files = {"programs/a": b"aaaa", "programs/b": b"bbbb", "variables/c": b"cc", "assets/d": b"dd"}
    write_files(tmp_path, files)
    records = record_files(tmp_path)
    (tmp_path / "programs/a").write_bytes(b"aaa")
    (tmp_path / "programs/b").write_bytes(b"bbbB")
    (tmp_path / "variables/c").unlink()
    (tmp_path / "assets/d").unlink()
    (tmp_path / "assets/d").mkdir()
    with pytest.raises(ArtifactError) as caught:
        verify(tmp_path, [*records, FileRecord("programs/a/x", 0, "0" * 64)])
    expected, found = (blake3.blake3(data).hexdigest() for data in (b"bbbb", b"bbbB"))
    assert str(caught.value).splitlines() == [
        f"artifact '{tmp_path}' is damaged: 5 of 5 files are wrong:",
        "  assets/d: expected a file, found something else",
        "  programs/a: expected 4 bytes, found 3",
        f"  programs/b: altered, expected BLAKE3 {expected}, found {found}",
        "  variables/c: missing",
        "  programs/a/x: missing",
        "Copy it again from where it was saved, or save it again.",
    ]


def test_ten_problems_are_shown_and_the_others_counted(tmp_path):
    records = [FileRecord(f"programs/{number:02}", 1, "0" * 64) for number in range(23)]
    with pytest.raises(ArtifactError) as caught:
        verify(tmp_path, records)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("23 of 23 files are wrong:")
    assert lines[1:11] == [f"  programs/{number:02}: missing" for number in range(10)]
    assert lines[11] == "  and 13 more"
    assert len(caught.value.problems) == 23


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(ArtifactNotFoundError, match="there is no artifact at") as caught:
        verify(tmp_path / "missing", [])
    assert isinstance(caught.value, FileNotFoundError)


ESCAPES = [
    ("", "is empty"),
    ("/etc/passwd", "is absolute"),
    ("//host/share", "is absolute"),
    ("..", "leaves the folder"),
    ("../other", "leaves the folder"),
    ("variables/../../other", "leaves the folder"),
    ("variables/..", "leaves the folder"),
    ("variables\\a", "holds a backslash"),
    ("..\\other", "holds a backslash"),
    ("C:/windows", "begins with a drive letter"),
    ("c:a", "begins with a drive letter"),
    ("variables/\0", "holds a control character"),
    ("a\nb", "holds a control character"),
    ("a\x1b[2Jb", "holds a control character"),
    ("a\ud800", "holds a control character or half of one of UTF-16's pairs"),
    (".", "has an empty part"),
    ("variables/./a", "has an empty part"),
    ("variables//a", "has an empty part"),
    ("variables/", "has an empty part"),
]


@pytest.mark.parametrize(("relative", "fault"), ESCAPES)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, relative, fault):
    with pytest.raises(ArtifactError) as caught:
        inside(tmp_path, relative)
    assert f"cannot have a file {relative!r}: the path {fault}" in str(caught.value)
    with pytest.raises(ArtifactError) as caught:
        verify(tmp_path, [FileRecord(relative, 0, "0" * 64)])
    assert caught.value.problems[0].startswith(f"{relative!r}: the path {fault}")


@pytest.mark.parametrize("relative", ["a", "a/b", "...", "..a/b..", "größe", "ab:c/d", "a b", "~"])
def test_a_path_below_the_folder_is_joined(tmp_path, relative):
    assert inside(tmp_path, relative) == tmp_path / relative


def test_a_file_may_lie_elsewhere_if_its_digest_agrees(tmp_path):
    write_files(tmp_path, {"model/programs/f": b"abc"})
    records = record_files(tmp_path / "model")
    (tmp_path / "model/programs/f").rename(tmp_path / "store")
    (tmp_path / "model/programs/f").symlink_to(tmp_path / "store")
    verify(tmp_path / "model", records)
    (tmp_path / "store").write_bytes(b"abd")
    with pytest.raises(ArtifactError, match="programs/f: altered"):
        verify(tmp_path / "model", records)


@pytest.mark.parametrize(
    ("files", "expected"), [({}, False), ({MANIFEST: b""}, True), ({f"{MANIFEST}/a": b""}, False)]
)
def test_an_artifact_is_a_folder_with_a_manifest(tmp_path, files, expected):
    write_files(tmp_path, files)
    assert is_artifact(tmp_path) is expected
    assert is_artifact(str(tmp_path)) is expected


def test_what_is_not_a_folder_is_no_artifact(tmp_path):
    (tmp_path / "file").touch()
    assert not is_artifact(tmp_path / "file")
    assert not is_artifact(tmp_path / "missing")
