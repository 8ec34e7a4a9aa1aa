"""ONNX: each operation of StableHLO as one or more of its operators."""
