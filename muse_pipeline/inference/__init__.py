"""Running a model: its card, the ONNX graph, one shard of one slide. Never imports torch."""
