"""Programs on disk: compressed with gzip, and read whole or refused."""

import gzip

import pytest

from exporter.artifact.programs import name_of, packed, read_program
from exporter.errors import ArtifactError

CODE = b"ML\xefR" + bytes(range(256)) * 40


def test_a_program_on_disk_is_what_gzip_unpacks_and_the_same_each_time(tmp_path):
    path = name_of("f")
    assert path == "programs/f.mlirbc.gz"
    (tmp_path / "programs").mkdir()
    (tmp_path / path).write_bytes(packed(path, CODE))
    assert gzip.decompress((tmp_path / path).read_bytes()) == CODE
    assert packed(path, CODE) == packed(path, CODE)
    assert read_program(tmp_path, path, {path: len(packed(path, CODE))}) == CODE


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("f.mlirbc", CODE, None),  # as older releases wrote it
        ("f.mlirbc.gz", gzip.compress(CODE), None),
        ("f.mlirbc.gz", CODE, "is not what gzip compresses to: Error -3"),
        ("f.mlirbc.gz", gzip.compress(CODE)[:-9], "is not one program compressed with gzip"),
        ("f.mlirbc.gz", gzip.compress(CODE) * 2, "is not one program compressed with gzip"),
        ("f.mlirbc.gz", b"", "is not one program compressed with gzip"),
    ],
)
def test_a_file_is_one_program_or_refused(path, data, message, tmp_path):
    (tmp_path / path).write_bytes(data)
    if message is None:
        assert read_program(tmp_path, path, {path: len(data)}) == CODE
        return
    with pytest.raises(ArtifactError) as caught:
        read_program(tmp_path, path, {path: len(data)})
    assert str(caught.value).startswith(f"{tmp_path}/{path} {message}")
