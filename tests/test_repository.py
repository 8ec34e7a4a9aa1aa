"""Which versions a folder holds, and which of them are wanted."""

import shutil
from pathlib import Path

import pytest

from exporter import OptionError
from exporter.serving.repository import Policy, Repository, scan


def artifact(folder):
    folder.mkdir(parents=True)
    (folder / "saved_model.json").write_text("{}")
    return folder


def found(root, name=None):
    models = scan(root, name).items()
    return {model: [one.version for one in versions] for model, versions in models}


def test_an_artifact_alone_is_a_model_that_is_called_as_its_folder(tmp_path):
    assert found(artifact(tmp_path / "digits")) == {"digits": [1]}
    assert found(tmp_path / "digits", "other") == {"other": [1]}
    assert found(artifact(tmp_path / "words/7")) == {"words": [7]}


def test_folders_of_numbers_are_versions(tmp_path):
    for name in ("1", "12", "003", "x4", "5.0", "-6", "\N{ARABIC-INDIC DIGIT SEVEN}"):
        artifact(tmp_path / "model" / name)
    assert sorted(found(tmp_path / "model")["model"]) == [1, 3, 12]
    assert list(found(tmp_path / "model", "named")) == ["named"]


def test_a_repository_has_models_of_both_kinds(tmp_path):
    artifact(tmp_path / "a/1")
    artifact(tmp_path / "a/2")
    artifact(tmp_path / "b")
    artifact(tmp_path / ".hidden/1")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == {"a": [1, 2], "b": [1]}


def test_the_only_model_of_a_repository_may_be_called_otherwise(tmp_path):
    artifact(tmp_path / "a/1")
    assert found(tmp_path, "b") == {"b": [1]}


def test_what_is_being_copied_is_no_version_yet(tmp_path):
    artifact(tmp_path / "a/1")
    (tmp_path / "a/2/programs").mkdir(parents=True)
    assert found(tmp_path) == {"a": [1]}


def test_one_and_zero_one_are_one_version(tmp_path):
    artifact(tmp_path / "a/1")
    artifact(tmp_path / "a/01")
    assert found(tmp_path) == {"a": [1]}


def test_another_artifact_at_the_same_place_is_another(tmp_path):
    artifact(tmp_path / "a")
    (before,) = scan(tmp_path / "a")["a"]
    assert scan(tmp_path / "a")["a"] == [before]
    shutil.rmtree(tmp_path / "a")
    artifact(tmp_path / "a")
    (tmp_path / "a/saved_model.json").write_text("{} ")
    assert scan(tmp_path / "a")["a"] != [before]


def test_a_folder_that_is_not_there_is_an_error_and_no_empty_one(tmp_path):
    with pytest.raises(OSError, match="none"):
        scan(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("latest", [5]),
        ("latest:2", [5, 3]),
        ("latest:9", [5, 3, 1]),
        ("all", [5, 3, 1]),
        ("specific:1,3,4", [3, 1]),
    ],
)
def test_policies_choose_the_highest_first(text, chosen):
    assert Policy.parse(text).chosen([1, 5, 3]) == chosen


@pytest.mark.parametrize("text", ["", "newest", "latest:x", "all:1", "specific", 3])
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(OptionError, match="a version policy is latest"):
        Policy.parse(text)


def test_labelled_versions_are_wanted_too(tmp_path):
    for number in (1, 2, 3):
        artifact(tmp_path / f"a/{number}")
    repository = Repository(
        ((tmp_path, None),), policies={"a": Policy(1)}, labels={"a": {"stable": 1, "gone": 9}}
    )
    wanted = repository.wanted("a", repository.scan()["a"])
    assert [one.version for one in wanted] == [3, 1]


def test_two_folders_with_a_model_of_one_name_are_refused(tmp_path):
    one, two = artifact(tmp_path / "one"), artifact(tmp_path / "two")
    both = Repository(((one, "same"), (two, "same")))
    with pytest.raises(OptionError, match="two models are called 'same'"):
        both.scan()
    assert set(Repository(((one, None), (Path(two), None))).scan()) == {"one", "two"}
