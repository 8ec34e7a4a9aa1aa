"""The program of `test_mesh.py`: what can only be seen on eight devices, as JSON.

A process has the number of devices that it was started with, so this runs in one of its own.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import exporter
from exporter import TensorSpec
from exporter.runtime.executables import ExecutableCache, key_of

X = np.random.default_rng(1).normal(size=(8, 8)).astype("float32")
W1 = np.random.default_rng(2).normal(size=(8, 16)).astype("float32")
W2 = np.random.default_rng(3).normal(size=(16, 8)).astype("float32")
SAVE = {"platforms": ("cpu",)}


def mesh_of(kind: AxisType = AxisType.Auto, **axes: int) -> Mesh:
    devices = np.array(jax.devices()[: int(np.prod([*axes.values()]))])
    return Mesh(devices.reshape([*axes.values()]), tuple(axes), axis_types=(kind,) * len(axes))


def full() -> Mesh:
    return mesh_of(data=4, model=2)


class Network:
    """Two layers, and a counter and a cache that each call changes."""

    def __init__(self, mesh: Mesh, w1: P, w2: P, state: P) -> None:
        def put(array: object, spec: P) -> exporter.Variable:
            return exporter.Variable(jax.device_put(array, NamedSharding(mesh, spec)))

        self.w1, self.w2 = put(W1, w1), put(W2, w2)
        self.cache = put(jnp.zeros((8, 8)), state)
        self.keys = put(jax.random.split(jax.random.key(0), 8), state)
        self.small = put(jnp.arange(8).astype("uint4"), state)
        self.empty = put(jnp.zeros((8, 0)), state)
        self.calls = exporter.Variable(jnp.zeros((), "int32"))

    @exporter.function(input_signature=[TensorSpec(("batch", 8), "float32", name="x")])
    def __call__(self, x):
        return jax.nn.relu(x @ self.w1.value) @ self.w2.value

    @exporter.function(input_signature=[TensorSpec((8,), "float32", name="row")])
    def step(self, row):
        start = (self.calls.value % 8, jnp.int32(0))
        self.cache.value = jax.lax.dynamic_update_slice(self.cache.value, row[None], start)
        self.calls.value += 1
        noise = jax.random.normal(self.keys.value[3]) + self.small.value.astype("float32").sum()
        return self.cache.value.sum() + noise + self.empty.value.sum()


class Constrained:
    """Functions that say how arrays are split, and one that computes shard by shard."""

    def __init__(self) -> None:
        self.one = exporter.Variable(jnp.ones((8, 8)))

    @exporter.function(input_signature=[TensorSpec(("rows", 8), "float32", name="x")])
    def split(self, x):
        y = jax.lax.scan(lambda c, _: (_within(c + 1, P("data")), None), x, None, 2)[0]
        return _within(y, P("data", P.UNCONSTRAINED)) * 2

    @exporter.function(input_signature=[TensorSpec(("rows", 8), "float32", name="x")])
    def whole(self, x):
        return _within(x * 2, P())

    @exporter.function(input_signature=[TensorSpec((8, 8), "float32", name="x")])
    def shards(self, x):
        def body(part):
            return jax.lax.psum(part, "data") + jax.lax.axis_index("model")

        return jax.shard_map(
            body, mesh=full(), in_specs=P("data", "model"), out_specs=P(None, "model")
        )(x + self.one.value)


def _within(value: jax.Array, spec: P) -> jax.Array:
    return jax.lax.with_sharding_constraint(value, NamedSharding(full(), spec))


class Typed:
    """Written for a mesh of explicit axes, where arrays have their sharding in their type."""

    def __init__(self, mesh: Mesh) -> None:
        self.w = exporter.Variable(jax.device_put(W1, NamedSharding(mesh, P(None, "model"))))

    @exporter.function(input_signature=[TensorSpec((8, 8), "float32", name="x")])
    def reshards(self, x):
        y = jax.sharding.reshard(x, P("data"))
        return jnp.dot(y, self.w.value, out_sharding=P("data", None)) + jnp.zeros((8, 16))

    @exporter.function(input_signature=[TensorSpec((8, 8), "float32", name="x")])
    def plain(self, x):
        return x @ self.w.value + jnp.zeros((8, 16))

    @exporter.function(input_signature=[TensorSpec((8, 8), "float32", name="x")])
    def asserts(self, x):
        return jax.lax.with_sharding_constraint(x * 2, P("data"))


LAYOUTS = {
    "tensor": (P(None, "model"), P("model"), P("model")),
    "data": (P(), P(), P()),
    "full": (P(("data", "model")), P(("data", "model")), P(("data", "model"))),
}
MESHES = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (2, 4)}


def placed(model: exporter.LoadedModel) -> NamedSharding:
    """Split over the first axis of the mesh that a model is on."""
    mesh = model.one.value.sharding.mesh
    return NamedSharding(mesh, P(mesh.axis_names[0]))


def close(one: object, other: object) -> bool:
    return bool(np.allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-5))


def spec(array: jax.Array) -> list[object]:
    found = array.sharding
    return (
        [str(part) for part in found.spec] if isinstance(found, NamedSharding) else ["one device"]
    )


def error(call: Callable[[], object]) -> str:
    try:
        return f"no error but {call()}"
    except Exception as found:  # its text is what the test compares
        return f"{type(found).__name__}: {found}"


def layouts(folder: Path) -> dict[str, object]:
    """Every layout, written on eight devices and read on 1, 2, 4 and 8."""
    found: dict[str, object] = {}
    for name, specs in LAYOUTS.items():
        exporter.save(Network(full(), *specs), folder / name, {}, **SAVE)
        want = np.maximum(X @ W1, 0) @ W2
        first = float(exporter.load(folder / name).step(X[0]))
        for count, sizes in MESHES.items():
            mesh = mesh_of(**dict(zip(("data", "model"), sizes, strict=True)))
            loaded = exporter.load(folder / name, mesh=mesh)
            split = jax.device_put(X, NamedSharding(mesh, P("data")))
            elsewhere = jax.device_put(X, jax.devices()[-1])
            given = (X, jnp.asarray(X), split, elsewhere, X[:3])
            found[f"{name} {count}"] = {
                "equal": [close(loaded(x), want[: len(x)]) for x in given],
                "step": close(loaded.step(X[0]), first),
                "devices": len(loaded(split).sharding.device_set),
                "shard": list(loaded.w1.value.addressable_shards[0].data.shape),
            }
    return found


def state(folder: Path) -> dict[str, object]:
    """A cache and a counter after ten calls, and after assignments from outside."""
    alone = exporter.load(folder / "full")
    loaded = exporter.load(folder / "full", mesh=full())
    buffer = exporter.variable.get_raw(loaded.cache)
    same = [
        close(loaded.step(np.full(8, i, "f")), alone.step(np.full(8, i, "f"))) for i in range(10)
    ]
    found = {
        "same": all(same),
        "calls": int(loaded.calls.value),
        "specs": {name: spec(array) for name, array in loaded.variables.items()},
        "was donated": buffer.is_deleted(),
    }
    loaded.cache.value = np.ones((8, 8), "float32")
    loaded.variables = loaded.variables | {"w1": jnp.asarray(W1)}
    loaded.step(X[0])
    found["assigned"] = [spec(loaded.cache.value), spec(loaded.w1.value)]
    exporter.save(loaded, folder / "again")
    again = exporter.load(folder / "again").manifest
    found["again"] = {v.key[0]: v.partition_spec for v in again.variables}
    found["id"] = [
        exporter.load(folder / name).manifest.content.variables
        for name in ("full", "data", "tensor")
    ]
    return found


def constraints(folder: Path) -> dict[str, object]:
    exporter.save(Constrained(), folder / "constrained", {}, **SAVE)
    here = exporter.load(folder / "constrained", mesh=full())
    other = mesh_of(batch=8)
    neutral = exporter.load(folder / "constrained", sharding=NamedSharding(other, P()))
    wider = exporter.load(folder / "constrained", mesh=mesh_of(data=2, model=2, more=2))
    uneven = exporter.load(folder / "constrained", mesh=mesh_of(data=3))
    plain = exporter.load(folder / "constrained")
    models = (here, neutral, wider, uneven, plain)
    # Without a constraint what is computed of this would be split likewise.
    splits = [
        X if model is plain or model is uneven else jax.device_put(X, placed(model))
        for model in models
    ]
    shards = (X + 1).reshape(4, 2, 8).sum(0)
    return {
        "split": [spec(model.split(X)) for model in models],
        "split equal": [close(model.split(X), (X + 2) * 2) for model in models],
        "whole": [spec(model.whole(x)) for model, x in zip(models, splits, strict=True)],
        "whole equal": [close(model.whole(X), X * 2) for model in models],
        "text": jax.jit(here.split).lower(X).as_text().count("sdy.sharding_constraint"),
        "text neutral": jax.jit(neutral.split).lower(X).as_text().count("sdy.sharding_constraint"),
        "text plain": jax.jit(plain.split).lower(X).as_text().count("composite"),
        "shards": spec(here.shards(X)),
        "shards equal": close(here.shards(X), np.tile(shards, 1) + np.repeat([0, 1], 4)),
        "shards elsewhere": [error(lambda m=m: m.shards(X)) for m in (plain, wider)],
        "programs": {
            p.file: [p.mesh_axes, [[a.name, a.size] for a in p.mesh]]
            for p in plain.manifest.programs
        },
    }


def explicit(folder: Path) -> dict[str, object]:
    mesh = mesh_of(AxisType.Explicit, data=4, model=2)
    with jax.set_mesh(mesh):
        exporter.save(Typed(mesh), folder / "typed", {}, **SAVE)
        inside = exporter.load(folder / "typed", mesh=mesh)
        split = jax.device_put(X, NamedSharding(mesh, P("data")))
        calls = [close(inside.plain(split), X @ W1), close(inside.reshards(X), X @ W1)]
    loaded = exporter.load(folder / "typed", mesh=mesh_of(data=2, model=4))
    plain = exporter.load(folder / "typed")
    return {
        "inside": calls,
        "reshards": [spec(loaded.reshards(X)), close(loaded.reshards(X), X @ W1)],
        "plain": [spec(loaded.plain(X)), close(loaded.plain(X), X @ W1)],
        "asserts": [spec(loaded.asserts(X)), close(loaded.asserts(X), X * 2)],
        "one device": [close(plain.reshards(X), X @ W1), close(plain.asserts(X), X * 2)],
    }


def choices(folder: Path, single: Path) -> dict[str, object]:
    """The ways to place a model that was saved on one device."""
    mesh = mesh_of(shard=8)
    all_split = NamedSharding(mesh, P("shard"))
    want = np.asarray(exporter.load(single).f(X))

    def rule(path: str, shape: tuple[int, ...], dtype: str) -> NamedSharding | None:
        return all_split if shape and shape[0] % 8 == 0 and dtype == "float32" else None

    given = {
        "tree": {"w": all_split},
        "rule": rule,
        "device": jax.sharding.SingleDeviceSharding(jax.devices()[5]),
    }
    found: dict[str, object] = {}
    for name, sharding in given.items():
        loaded = exporter.load(single, sharding=sharding)
        found[name] = [*map(spec, loaded.variables.values()), close(loaded.f(X), want)]
    with jax.default_device(jax.devices()[3]):
        chosen = exporter.load(single)
    places = {value.device for value in (*chosen.variables.values(), chosen.f(X))}
    found["default device"] = places == {jax.devices()[3]}
    found["mesh"] = [*map(spec, exporter.load(single, mesh=mesh).variables.values())]
    full, elsewhere = folder / "full", NamedSharding(mesh_of(shard=4), P())
    unplaced = exporter.load(single)
    attempts: dict[str, Callable[[], object]] = {
        "lacks": lambda: exporter.load(full, mesh=mesh),
        "divides": lambda: exporter.load(full, mesh=mesh_of(data=1, model=3)),
        "two": lambda: exporter.load(single, mesh=mesh, device="cpu"),
        "no mesh": lambda: exporter.load(single, mesh="data"),
        "no sharding": lambda: exporter.load(single, sharding=3),
        "rank": lambda: exporter.load(single, sharding=all_split),
        "unknown": lambda: exporter.load(single, sharding={"v": all_split}),
        "spec": lambda: exporter.load(single, sharding={"w": P("shard")}),
        "apart": lambda: exporter.load(single, sharding={"w": all_split, "b": elsewhere}),
        "empty": lambda: exporter.load(single, sharding={}),
        "input": lambda: unplaced.f(jax.device_put(X, all_split)),
    }
    return found | {name: error(attempt) for name, attempt in attempts.items()}


def moved(single: Path) -> dict[str, object]:
    """Variables that were assigned arrays of other devices, before and after the first call."""
    home, other = jax.devices()[0], jax.devices()[4]
    jitted = jax.jit(lambda variables, x: x @ variables["w"] + variables["b"])
    found: dict[str, object] = {}
    for name, calls in {"before": 0, "after": 1}.items():
        loaded = exporter.load(single)
        for _ in range(calls):
            loaded.f(X)
        loaded.variables = jax.device_put(loaded.variables, other)
        result, want = loaded.f(X), jitted(loaded.variables, X)
        found[name] = [result.device == want.device == other, close(result, want)]
        loaded.b.value = jax.device_put(loaded.b.value, home)
        found[f"apart {name}"] = error(lambda model=loaded: model.f(X))
    return found


def refused() -> dict[str, str]:
    other = mesh_of(other=8)

    def twice(x):
        y = jax.shard_map(lambda a: a, mesh=full(), in_specs=P("data"), out_specs=P("data"))(x)
        return jax.shard_map(lambda a: a, mesh=other, in_specs=P("other"), out_specs=P("other"))(y)

    def doubled(x):
        return jax.pmap(lambda a: a * 2)(x)

    def save(function: Callable[..., object]) -> None:
        holder = type("Holder", (), {})()
        holder.f = exporter.function(function, input_signature=[TensorSpec((8, 8), "float32")])
        exporter.save(holder, "unused", **SAVE)

    return {
        "two meshes": error(lambda: save(twice)),
        "pmap": error(lambda: save(doubled)),
    }


def executables(folder: Path) -> dict[str, object]:
    """Compiled programs on a mesh, and on one device that is not the first, kept and found."""
    cache = ExecutableCache(folder / "executables")
    found: dict[str, object] = {}
    for name, sharding in {
        "mesh": NamedSharding(full(), P("data", "model")),
        "reversed": NamedSharding(Mesh(jax.devices()[::-1], "x"), P("x")),
        "fifth": jax.sharding.SingleDeviceSharding(jax.devices()[5]),
    }.items():
        x = jax.device_put(X, sharding)
        program = jax.jit(lambda x: [x * 2 + x.sum(), x.sum()], donate_argnums=0)
        want, _ = program(x + 0)
        mesh = getattr(sharding, "mesh", None)
        devices = [jax.devices()[5]] if mesh is None else list(mesh.devices.flat)
        key = key_of({"name": name}, devices)
        cache.put(key, program.lower(x).compile())
        again = cache.get(key, devices, 1, 2)
        (result, _) = again(x)
        found[name] = [
            np.array_equal(result, want),
            result.sharding == want.sharding,
            x.is_deleted(),
        ]
    found["other key"] = key_of({}, jax.devices()) != key_of({}, jax.devices()[::-1])
    return found


def main(folder: Path, single: Path) -> None:
    found = {
        "layouts": layouts(folder),
        "state": state(folder),
        "constraints": constraints(folder),
        "explicit": explicit(folder),
        "choices": choices(folder, single),
        "moved": moved(single),
        "refused": refused(),
        "executables": executables(folder),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
