"""The network as a model of MLServer, which finds it by its settings."""

import network
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Network(MLModel):
    """One model of the Open Inference Protocol."""

    async def load(self):
        self.predict_ = network.predictor()
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        scores = self.predict_(np.ascontiguousarray(x, np.float32))
        outputs = [NumpyCodec.encode_output("scores", scores)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
