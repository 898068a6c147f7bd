"""From any image to its label map, and the way to it; plain PyTorch."""
