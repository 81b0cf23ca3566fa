"""Running a model: its card, the ONNX graph, one shard of one slide.

Loading the package does not import torch.
"""
