"""LitServe with the network; bodies are JSON, which is all that reaches its processes.

python litserve_server.py PORT
"""

import sys

import litserve
import network
import numpy as np


class Network(litserve.LitAPI):
    """One model."""

    def setup(self, device):
        self.predict_ = network.predictor()

    def decode_request(self, request):
        return np.array(request["x"], np.float32)

    def predict(self, x):
        return self.predict_(x)

    def encode_response(self, output):
        return {"scores": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Network(), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
