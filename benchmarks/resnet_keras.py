"""ResNet-50 as Keras has it, for whichever library Keras runs on in this process.

That is told by the environment variable `KERAS_BACKEND` when the process starts.
"""

import keras

import resnet


def model() -> keras.Model:
    """Keras's own network with the parameters that every library is given."""
    image = keras.Input((resnet.SIDE, resnet.SIDE, 3), name="image")
    made = keras.applications.ResNet50(
        weights=None, input_tensor=image, classes=resnet.CLASSES, classifier_activation=None
    )
    parameters = resnet.parameters()
    for variable in made.weights:
        variable.assign(parameters.pop(variable.path))
    assert not parameters, f"parameters that no layer has: {sorted(parameters)}"
    return made
