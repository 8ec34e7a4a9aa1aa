"""The program of `test_distributed.py`: one of two processes with two devices each."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import exporter
from exporter import TensorSpec
from exporter.artifact import variables

W = np.arange(32, dtype="float32").reshape(8, 4)
X = np.arange(16, dtype="float32").reshape(2, 8)


class Network:
    """Arrays split over both processes, whole on each device, of this process alone, of NumPy."""

    def __init__(self, mesh: Mesh | None) -> None:
        def put(array: np.ndarray, *spec: str) -> exporter.Variable:
            if mesh is None:
                return exporter.Variable(array)
            place = NamedSharding(mesh, P(*spec))
            return exporter.Variable(
                jax.make_array_from_callback(array.shape, place, lambda index: array[index])
            )

        self.w = put(W, "data", "model")
        self.b = put(np.ones(4, "float32"))
        self.small = put(np.arange(8).astype("uint4"), "data")
        self.calls = put(np.zeros(4, "float32"), "data")
        self.own = exporter.Variable(jnp.full(3, 2.0))
        self.host = np.arange(3, dtype="float32")
        self.key = exporter.Variable(jax.random.key(5))
        self.fails = False

    @exporter.function(input_signature=[TensorSpec((2, 8), "float32", name="x")])
    def f(self, x):
        if self.fails:
            raise RuntimeError("this process cannot")
        self.calls.value += 1
        more = self.own.value.sum() + self.host.sum() + self.calls.value.sum()
        more += self.small.value.astype("float32").sum() + jax.random.normal(self.key.value)
        return x @ self.w.value + self.b.value + more


def error(call):
    try:
        call()
    except Exception as found:  # its text is what the test compares
        return f"{type(found).__name__}: {found}"
    return "no error"


def parts_read(mesh: Mesh, folder: Path) -> list[list[int]]:
    """The shapes of the parts of `w` that this process reads."""
    read = []
    part_of = variables._part

    def watched(parts, record, index):
        part = part_of(parts, record, index)
        if record.key == ["w"]:
            read.append(list(part.shape))
        return part

    variables._part = watched
    exporter.load(folder, mesh=mesh)
    variables._part = part_of
    return read


def main(process: int, port: str, folder: Path) -> dict[str, object]:
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    devices = np.array(jax.devices()).reshape(2, 2)
    mesh = Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    network = Network(mesh)
    network.fails = process == 1
    found: dict[str, object] = {
        "fails": error(lambda: exporter.save(network, folder / "model", platforms=("cpu",))),
        "left": sorted(path.name for path in folder.iterdir()),
    }
    network.fails = False
    multihost_utils.sync_global_devices("seen")
    exporter.save(network, folder / "model", platforms=("cpu",))
    found["exists"] = error(lambda: exporter.save(network, folder / "model", platforms=("cpu",)))
    loaded = exporter.load(folder / "model", mesh=mesh)
    outputs = [multihost_utils.process_allgather(loaded.f(X), tiled=True) for _ in range(3)]
    found["outputs"] = np.stack(outputs).tolist()
    found["calls"] = [
        str(loaded.calls.value.sharding.spec),
        loaded.calls.value.is_fully_addressable,
    ]
    loaded.b.value = np.full(4, 2.0, "float32")
    loaded.own.value = jnp.zeros(3)
    found["assigned"] = np.asarray(
        multihost_utils.process_allgather(loaded.f(X), tiled=True)
    ).tolist()
    found["parts"] = parts_read(mesh, folder / "model")
    exporter.save(loaded, folder / "again")
    found["alone"] = np.asarray(exporter.load(folder / "again").f(X)).tolist()
    return found


if __name__ == "__main__":
    result = main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    Path(sys.argv[3]).with_suffix(f".{sys.argv[1]}.json").write_text(json.dumps(result))
