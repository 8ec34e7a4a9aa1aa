"""A few of JAX's own harnesses; `benchmarks/harnesses.py` draws as many as one likes."""

from benchmarks.harnesses import drawn, outcomes


def test_what_jax_can_export_is_saved_and_agrees():
    found = dict(outcomes(drawn(40, seed=3), ("cpu",)))
    wrong = {name: outcome for name, outcome in found.items() if outcome != "agrees"}
    assert list(wrong.values()) == ["JAX cannot export it"] * len(wrong)
    assert len(found) - len(wrong) >= 30
