"""Native functions that programs call by name: JAX keeps some, and somebody vouches for others."""

import ctypes
import inspect
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import LoweringError, SaveOptions, TensorSpec, UnsafeProgramError

SPEC = TensorSpec((3,))
X = np.array([1.0, 2.0, 3.0], np.float32)

SOURCE = """
#include "xla/ffi/api/ffi.h"
namespace ffi = xla::ffi;

static ffi::Error Twice(ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> y) {
  for (size_t i = 0; i < x.element_count(); ++i) y->typed_data()[i] = 2 * x.typed_data()[i];
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    twice, Twice, ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
"""

TARGET = "exporter_test_twice"


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> str:
    """The name of a native function of this process that doubles an array."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: calls of native functions are not run after loading")
    folder = tmp_path_factory.mktemp("native")
    (folder / "twice.cc").write_text(SOURCE)
    command = [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{jax.ffi.include_dir()}"]
    subprocess.run([*command, "twice.cc", "-o", "twice.so"], cwd=folder, check=True)
    library = ctypes.cdll.LoadLibrary(str(folder / "twice.so"))
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.twice), platform="cpu")
    return TARGET


def twice(x):
    return jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def attached(python_function=twice, spec=SPEC) -> SimpleNamespace:
    return SimpleNamespace(f=exporter.function(python_function, input_signature=[spec]))


VOUCHED = SaveOptions(custom_calls=(TARGET,))


def test_a_native_function_runs_after_load_when_writer_and_reader_name_it(target, tmp_path):
    exporter.save(attached(), tmp_path / "m", platforms=("cpu",), options=VOUCHED)
    loaded = exporter.load(tmp_path / "m", custom_calls=(target,))
    assert loaded.manifest.programs[0].custom_calls == [target]
    np.testing.assert_array_equal(loaded.f(X), X * 2)
    np.testing.assert_array_equal(loaded.f(X), jax.jit(twice)(X))
    alone = exporter.load(tmp_path / "m", custom_calls=target)
    np.testing.assert_array_equal(alone.f(X), X * 2)


def test_a_loaded_model_that_calls_it_is_saved_again_by_who_names_it(target, tmp_path):
    exporter.save(attached(), tmp_path / "m", platforms=("cpu",), options=VOUCHED)
    loaded = exporter.load(tmp_path / "m", custom_calls=(target,))
    with pytest.raises(LoweringError) as caught:
        exporter.save(loaded, tmp_path / "again")
    (problem,) = caught.value.problems
    assert (problem.kind, problem.function) == ("custom call", "f")
    assert exporter.check(loaded).problems == (problem,)
    exporter.save(loaded, tmp_path / "again", options=VOUCHED)
    again = exporter.load(tmp_path / "again", custom_calls=(target,))
    np.testing.assert_array_equal(again.f(X), X * 2)


@pytest.mark.parametrize("named", [(), ("another",), (TARGET.upper(),)])
def test_a_native_function_that_the_writer_does_not_name_is_refused(named, tmp_path):
    with pytest.raises(LoweringError) as caught:
        exporter.save(
            attached(),
            tmp_path / "m",
            platforms=("cpu",),
            options=SaveOptions(custom_calls=named),
        )
    line = f"{__file__}:{inspect.getsourcelines(twice)[1] + 1}"
    assert str(caught.value) == (
        f"twice calls {TARGET} at {line}, of which nobody promises that later releases still have "
        f"it. Compute it with other operations, or vouch for it with "
        f"SaveOptions(custom_calls=('{TARGET}',)), as its readers then must: "
        f"exporter.load(path, custom_calls=('{TARGET}',))."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", [(), ("another",)])
def test_a_native_function_that_the_reader_does_not_name_is_refused(named, tmp_path):
    exporter.save(attached(), tmp_path / "m", platforms=("cpu",), options=VOUCHED)
    with pytest.raises(UnsafeProgramError) as caught:
        exporter.load(tmp_path / "m", custom_calls=named)
    assert str(caught.value) == (
        f"{tmp_path}/m/programs/twice.mlirbc.gz calls native code that is not on the list of "
        f"stable custom calls: '{TARGET}'. It is not loaded. If you trust it, and this process "
        f"has that code, say so: exporter.load(path, custom_calls=('{TARGET}',))."
    )


def test_a_manifest_cannot_vouch_for_what_its_program_calls(tmp_path):
    """What the writer named is in the manifest, and means nothing to the reader."""
    exporter.save(attached(), tmp_path / "m", platforms=("cpu",), options=VOUCHED)
    document = json.loads((tmp_path / "m" / "saved_model.json").read_text())
    assert document["programs"][0]["custom_calls"] == [TARGET]
    with pytest.raises(UnsafeProgramError, match=TARGET):
        exporter.load(tmp_path / "m")


def test_all_native_functions_are_named_and_one_may_be_vouched_for(tmp_path):
    def both(x):
        y = jax.ffi.ffi_call("one", jax.typeof(x))(x)
        return jax.lax.scan(
            lambda c, _: (jax.ffi.ffi_call("two", jax.typeof(c))(c), None), y, None, length=2
        )[0]

    def calls(*named):
        report = exporter.check(attached(both), options=SaveOptions(custom_calls=named))
        return [re.search(r"calls (\w+) at", one.message)[1] for one in report.problems]

    assert calls() == ["one", "two"]
    assert calls("one") == ["two"]
    assert calls("two") == ["one"]
    assert calls("one", "two") == []


def test_native_functions_that_jax_keeps_need_no_naming(reload):
    def factor(x):
        return jnp.linalg.cholesky(x)

    loaded = reload(attached(factor, TensorSpec((2, 2))))
    assert loaded.manifest.programs[0].custom_calls == ["lapack_spotrf_ffi"]
    x = np.array([[4.0, 2.0], [2.0, 3.0]], np.float32)
    np.testing.assert_allclose(loaded.f(x), np.linalg.cholesky(x), rtol=1e-6)
