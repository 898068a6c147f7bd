"""Cost: analytic multiply-accumulates from token counts, and timing."""
