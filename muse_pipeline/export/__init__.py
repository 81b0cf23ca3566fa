"""Export of checkpoints as one ONNX file with its card inside, checked against torch."""
