"""What a run leaves behind in W&B, TensorBoard and files: the same names and figures in all."""
