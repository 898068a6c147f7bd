"""Models for other runtimes: static shapes, `torch.export` programs and ONNX files."""
