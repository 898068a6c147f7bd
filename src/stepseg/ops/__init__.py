"""Operations on packed tokens: variable-length attention, per-image ranks, drop path."""
