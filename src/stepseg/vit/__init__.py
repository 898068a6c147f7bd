"""Vision Transformers on packed tokens, plain and foundation models, with the weights of timm."""
