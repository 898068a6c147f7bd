"""A plain Vision Transformer on packed tokens, with the weights of timm."""
