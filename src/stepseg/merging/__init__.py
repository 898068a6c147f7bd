"""Reductions inside the blocks, of other methods: ToMe, ALGM and Cropr, from their equations."""
