"""The errors of signatures: what they are caught as, and the facts they carry."""

import pickle

import pytest

from exporter import errors as exporter_errors
from signatures import errors
from signatures.errors import (
    BindError,
    ExporterError,
    NameTypeError,
    ResolveError,
    SignatureError,
    SpecError,
    UnknownSignatureError,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (SpecError("x"), ValueError),
        (BindError("x"), TypeError),
        (ResolveError("x"), ValueError),
        (NameTypeError("x"), TypeError),
        (UnknownSignatureError("x", "f"), KeyError),
    ],
)
def test_an_error_is_also_the_builtin_that_a_caller_would_reach_for(error, builtin):
    assert isinstance(error, builtin)
    assert isinstance(error, SignatureError)
    assert isinstance(error, ExporterError)
    assert str(error) == "x"


def test_every_error_of_the_package_has_one_root():
    assert exporter_errors.ExporterError is ExporterError


def test_every_error_stands_in_the_drawing_at_the_top_of_its_file():
    classes = [one for one in vars(errors).values() if isinstance(one, type)]
    drawn = [one for one in classes if issubclass(one, ExporterError)]
    assert len(drawn) > 5
    for one in drawn:
        assert f" {one.__name__} " in errors.__doc__


def test_an_error_of_a_call_has_its_problems_as_values():
    assert BindError("text", iter(["x: missing", "y: missing"])).problems == (
        "x: missing",
        "y: missing",
    )
    assert BindError("text").problems == ()


def test_an_unknown_name_is_told_with_the_names_that_there_are():
    error = UnknownSignatureError("no signature 'g'.", "g", {"f": 1})
    assert (error.name, error.known) == ("g", ("f",))
    assert str(error) == "no signature 'g'."  # without the quotes of a KeyError


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (BindError("text", ["x: missing"]), "problems"),
        (UnknownSignatureError("text", "g", ["f"]), "known"),
        (UnknownSignatureError("text", "g", ["f"]), "name"),
    ],
)
def test_an_error_crosses_to_another_process_with_its_facts(error, fact):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), getattr(copy, fact)) == (str(error), getattr(error, fact))
