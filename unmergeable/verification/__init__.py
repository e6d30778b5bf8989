"""Whether a protected model computes what the original computes, and holds its weights."""
