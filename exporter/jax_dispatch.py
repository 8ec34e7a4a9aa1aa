"""The private parts of JAX that calls go through, so that one costs no more than under `jax.jit`.

- `jax._src.lib._jax.pjit`: the function in C++ that `jax.jit` returns. It looks at the shapes,
  dtypes and places of its arguments, and runs what it ran for the like before. Where there was
  nothing like it, it asks Python. When it goes, `dispatcher` returns its `once`, and calls are
  slower.
- `MeshExecutableFastpathData`: what it is told then, among it arrays that are passed along each
  time before the arguments, without a look at them. `jax.stages.Compiled` makes the same of itself
  for its own calls. When a field of it changes, so must `_fast_path`.
- `jax._src.lib.xla_client`: the fingerprint of the devices and their drivers, which no public
  function tells. When it goes, the names of devices have to do.
- `jax._src.lax.linalg`: makes the functions of LAPACK known to compiled programs that call them.
  When it goes, lowering any call of them does the same.
- `api_util.InternalFloatingPointError`: what stops compiled code under `jax.debug_nans`, for
  whoever called it to say in public. When it goes, see what `jax.jit` catches.
- `jax._src.array.ArrayImpl`: the class of all arrays that are no tracers. When it goes, it is that
  of `jax.numpy.zeros(())`, which starts JAX.
- `core.trace_state_clean`: whether anything is being traced, however deep.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, starmap
from typing import Any

import jax
from jax._src import api_util, config, core, tree_util
from jax._src.array import ArrayImpl
from jax._src.interpreters import pxla
from jax._src.lax import linalg
from jax._src.lib import _jax, xla_client  # type: ignore[attr-defined]  # not meant to be exported

# What `jax.Array` really is: `isinstance` would also let tracers pass, and takes longer.
ARRAY: type = ArrayImpl

# Raised where results are looked at and are not finite. Its `ty` is "nan" or "inf".
NotFiniteError: type[Exception] = api_util.InternalFloatingPointError

# What a call is run with: compiled code, and the arrays that it takes before those of the call.
Choice = tuple[jax.stages.Compiled, Sequence[jax.Array]]


def is_top_level() -> bool:
    """Whether nothing is being traced."""
    return bool(core.trace_state_clean())


def topology_fingerprint(devices: Sequence[jax.Device]) -> str:
    """What the compiler knows of devices, in short, or no text where a backend does not tell it.

    It is the same in every process that sees the same devices by the same drivers. Of a CPU it
    covers the instructions that the compiler uses.
    """
    try:
        return str(xla_client.get_topology_for_devices(list(devices)).fingerprint())
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return ""


def initialize_lapack() -> None:
    """Look up the functions of LAPACK, for compiled programs that nobody lowers in this process."""
    linalg.initialize_lapack()


def is_jit_disabled() -> bool:
    """Whether `jax.disable_jit` is on, so that nothing may be compiled as a whole."""
    return bool(config.disable_jit.value)


def is_finiteness_checked() -> bool:
    """Whether `jax.debug_nans` or `jax.debug_infs` is on, so that results are looked at."""
    return bool(config.debug_nans.value or config.debug_infs.value)


def dispatcher(
    name: str, choose: Callable[..., Choice], donated: Sequence[int] = ()
) -> Callable[..., Any]:
    """A function of flat arrays that remembers how calls of each kind are run.

    It returns a list of arrays, or an iterator of them where some are `donated`.

    Args:
      name: what profiles call it.
      choose: says how arrays like these are run, now and from now on. The code takes flat arrays
        and returns a list of them. What it raises is passed on, and it is asked again next time.
      donated: the positions of arrays that the code may take the buffers of. Whatever interrupts
        Python, they are not taken before the results are there: where Python runs the code, it
        gets copies.
    """

    def python(compiled: jax.stages.Compiled, before: Sequence[jax.Array], arrays: Any) -> Any:
        given = list(arrays)
        for position in donated:
            given[position] = given[position].copy()
        return run(compiled, [*before, *given])

    def once(*arrays: jax.Array) -> list[jax.Array]:  # in place of `miss` under jax.disable_jit
        return python(*choose(*arrays), arrays)  # type: ignore[no-any-return]

    remembered = set()

    def miss(*arrays: jax.Array) -> tuple[Iterable[jax.Array], Any, bool]:
        compiled, before = choose(*arrays)
        fast_path = _fast_path(compiled, before, len(arrays))
        if donated and fast_path is not None and compiled not in remembered:
            remembered.add(compiled)
            return in_c(call, arrays), fast_path, False  # run once C++ has got to know it
        return python(compiled, before, arrays), fast_path, False

    call: Callable[..., Any] = _jax.pjit(
        name,
        once,
        miss,
        [],
        [],
        pxla.JitGlobalCppCacheKeys(),
        tree_util.dispatch_registry,
        pxla.cc_shard_arg,
    )
    return call


def in_c(call: Callable[..., Iterable[jax.Array]], arrays: Iterable[object]) -> Iterator[jax.Array]:
    """The results of a dispatcher's function, which is called when the first is asked for.

    If C asks for them, Python is not interrupted between the call and their arrival.
    """
    return chain.from_iterable(starmap(call, (arrays,)))


def run(compiled: jax.stages.Compiled, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The results of compiled code that takes flat arrays, of the shapes and places it is for.

    To call it in public does the same after a check of layouts, which takes arrays of 4 bits that
    lie on several devices for others than they are.
    """
    executable: Any = compiled._executable
    return list(executable.unsafe_call(*compiled._params.const_args, *arrays))


def _fast_path(
    compiled: jax.stages.Compiled, before: Sequence[jax.Array], count: int
) -> pxla.MeshExecutableFastpathData | None:
    """How C++ runs the code from now on, or `None` if Python must."""
    executable: Any = compiled._executable
    call = executable.unsafe_call
    if not isinstance(call, pxla.ExecuteReplicated) or call.has_unordered_effects:
        return None
    if call.ordered_effects or call.has_host_callbacks or compiled._params.const_args:
        return None
    avals = executable.out_avals
    _, out_tree = tree_util.dispatch_registry.flatten([0] * len(avals), None)
    kept = [position in executable._kept_var_idx for position in range(len(before) + count)]
    return pxla.MeshExecutableFastpathData(
        executable.xla_executable,
        out_tree,
        list(executable._in_shardings),
        list(executable._out_shardings),
        avals,
        [executable._unloaded_executable.committed] * len(avals),
        kept,
        executable._dispatch_in_layouts,
        list(before),
    )
