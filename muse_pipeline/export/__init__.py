"""From a checkpoint to one ONNX file with its card inside, checked against torch."""
