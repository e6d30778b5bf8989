"""Ways of fitting a protected model to an anchor: one engine, and one small file per method."""
