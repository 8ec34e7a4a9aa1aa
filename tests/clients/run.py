"""Every client that nobody here wrote, against one server. `make clients` runs it.

Their protocol files clash in one process, so each has an environment of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from serving import save_models, served  # noqa: E402  # it stands beside the tests


def main():
    environments = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        save_models(Path(folder))
        with served(folder) as server:
            ports = [str(server.http), str(server.grpc)]
            for name in ("triton", "kserve"):
                python = environments / name / "bin/python"
                subprocess.run([python, HERE / f"{name}_clients.py", *ports], check=True)
    manifests = (HERE.parent.parent / "examples/kserve").glob("*.yaml")
    python = environments / "kserve/bin/python"
    subprocess.run([python, HERE / "kserve_manifests.py", *sorted(manifests)], check=True)


if __name__ == "__main__":
    main()
