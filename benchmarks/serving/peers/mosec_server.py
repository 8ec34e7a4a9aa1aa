"""mosec, whose front is written in Rust, with the network; bodies are arrays as bytes.

python mosec_server.py --port PORT
"""

import mosec
import network
import numpy as np

# It was the best of 1, 2, 5 and 10.
WAIT_MS = 2


class Network(mosec.Worker):
    """One stage that joins calls."""

    def __init__(self):
        self.predict_ = network.predictor()

    def deserialize(self, data):
        return np.frombuffer(data, np.float32)

    def serialize(self, data):
        return data.tobytes()

    def forward(self, data):
        return list(self.predict_(np.stack(data)))


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Network, num=1, max_batch_size=network.BATCH, max_wait_time=WAIT_MS)
    server.run()
