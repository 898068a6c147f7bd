"""Attention-to-mask heads (the decoder and the exit heads) and the rules by which tokens exit."""
