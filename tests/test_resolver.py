"""Which functions are written as signatures, and which one a caller means."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures.errors import NameTypeError, ResolveError, UnknownSignatureError
from signatures.resolver import (
    DEFAULT,
    Candidate,
    Resolution,
    check_names,
    resolve_call,
    resolve_export,
)

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

F, G = Candidate("f"), Candidate("g")
MARKED = Candidate("h", is_default=True)
BROKEN = Candidate("k", problem="it returns nothing.")
BROKEN_TOO = Candidate("l", problem="it has no input_signature.")


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([F], "f"),
        ([F, BROKEN], "f"),
        ([BROKEN, F, BROKEN_TOO], "f"),
        ([MARKED], "h"),
        ([F, MARKED, G], "h"),
        ([MARKED, BROKEN], "h"),
    ],
)
def test_the_only_candidate_or_the_marked_one_is_chosen(candidates, chosen):
    assert resolve_export(candidates) == Resolution(chosen)


@pytest.mark.parametrize(
    ("candidates", "note"),
    [
        (
            [F, G],
            "several methods could be the default signature: f, g. Mark one with "
            "@exporter.function(default=True), or pass signatures={'f': model.f} to save.",
        ),
        (
            [BROKEN, G, F],
            "several methods could be the default signature: g, f. Mark one with "
            "@exporter.function(default=True), or pass signatures={'g': model.g} to save.",
        ),
        (
            [],
            "no method could be the default signature. Decorate one with "
            "@exporter.function(input_signature=[...]), or pass signatures= to save.",
        ),
        (
            [BROKEN, BROKEN_TOO],
            "no method could be the default signature. Decorate one with "
            "@exporter.function(input_signature=[...]), or pass signatures= to save. Looked at:\n"
            "  k: it returns nothing.\n"
            "  l: it has no input_signature.",
        ),
    ],
)
def test_with_several_or_none_nothing_is_chosen_and_the_note_says_what_to_do(candidates, note):
    assert resolve_export(candidates) == Resolution(None, note)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (
            [MARKED, F, Candidate("m", is_default=True)],
            "h and m are all marked default=True; mark one, or pass signatures= to save.",
        ),
        (
            [F, Candidate("m", is_default=True, problem="it returns nothing.")],
            "m is marked default=True but cannot be a signature: it returns nothing.",
        ),
    ],
)
def test_marks_that_cannot_be_followed_are_errors(candidates, message):
    with pytest.raises(ResolveError) as caught:
        resolve_export(candidates)
    assert str(caught.value) == message


candidates = st.lists(
    st.builds(
        Candidate,
        st.sampled_from("abcdef"),
        st.booleans(),
        st.none() | st.just("it returns nothing."),
    ),
    unique_by=lambda candidate: candidate.name,
)


@UNHURRIED
@given(candidates)
def test_what_is_chosen_is_possible_and_without_rival(found):
    try:
        resolution = resolve_export(found)
    except ResolveError:
        assert any(candidate.is_default for candidate in found)
        return
    possible = [candidate.name for candidate in found if candidate.problem is None]
    marked = [candidate.name for candidate in found if candidate.is_default]
    if resolution.chosen is None:
        assert resolution.note
        assert len(possible) != 1
        assert not marked
    else:
        assert resolution.note is None
        assert [resolution.chosen] in (marked, possible)
        assert resolution.chosen in possible


@pytest.mark.parametrize("name", ["f", DEFAULT, "größe", "a b", "_f", "c/d", "_"])
def test_a_signature_may_have_any_name_but_a_reserved_one(name):
    check_names([name])


@pytest.mark.parametrize("name", ["", "__f", "__saved_model_init_op", "__"])
def test_reserved_names_are_refused(name):
    with pytest.raises(ResolveError) as caught:
        check_names(["f", name])
    assert str(caught.value) == (
        f"{name!r} cannot name a signature: the empty name and names that start with '__' are "
        "reserved."
    )


@pytest.mark.parametrize(("name", "kind"), [(3, "int"), (None, "NoneType"), (b"f", "bytes")])
def test_names_that_are_not_text_are_type_errors(name, kind):
    with pytest.raises(NameTypeError) as caught:
        check_names([name])
    assert str(caught.value) == (
        f"signatures= has the key {name!r} of type {kind}; the names of signatures are text."
    )


@pytest.mark.parametrize(
    ("signatures", "note", "message"),
    [
        ({"f": 1, "größe": 2}, None, "no signature 'g'; the signatures are 'f', 'größe'."),
        ({"f": 1}, "nothing to note", "no signature 'g'; the signatures are 'f'."),
        ({}, None, "no signature 'g', the artifact has none."),
        (
            {},
            "several methods could be the default signature: f, h.",
            "no signature 'g', the artifact has none: when it was saved, several methods could be "
            "the default signature: f, h.",
        ),
    ],
)
def test_an_unknown_signature_is_told_with_the_known_ones_or_why_there_are_none(
    signatures, note, message
):
    with pytest.raises(UnknownSignatureError) as caught:
        resolve_call(signatures, "g", note)
    assert str(caught.value) == message
    assert (caught.value.name, caught.value.known) == ("g", tuple(signatures))


def test_a_known_signature_is_found_by_its_exact_name():
    assert resolve_call({"f": 1, "F": 2}, "F") == 2
