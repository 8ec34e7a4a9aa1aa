"""KServe's own server with the network as a model of it.

python kserve_server.py PORT
"""

import sys

port = sys.argv.pop()  # KServe reads what is left when it is imported

import kserve  # noqa: E402
import network  # noqa: E402
import numpy as np  # noqa: E402
from kserve import InferOutput, InferResponse  # noqa: E402


class Network(kserve.Model):
    """One model of the Open Inference Protocol."""

    def __init__(self):
        super().__init__("mlp")
        self.predict_ = network.predictor()
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        x = payload.inputs[0].as_numpy().reshape(-1, network.SIZES[0])
        scores = self.predict_(np.ascontiguousarray(x, np.float32))
        output = InferOutput("scores", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=True)


if __name__ == "__main__":
    kserve.ModelServer(http_port=int(port), enable_grpc=False, access_log_format=None).start(
        [Network()]
    )
