"""BentoML with the network, whose calls it joins.

bentoml serve bentoml_server:Network --port PORT
"""

import bentoml
import network
import numpy as np


@bentoml.service(workers=1)
class Network:
    """One service with one method."""

    def __init__(self):
        self.predict_ = network.predictor()

    @bentoml.api(batchable=True, max_batch_size=network.BATCH)
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Scores `float32[n, 10]`."""
        return self.predict_(np.ascontiguousarray(x, np.float32))
