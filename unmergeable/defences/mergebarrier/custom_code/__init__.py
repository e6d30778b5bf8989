"""Code that travels inside protected folders, for transformers' `trust_remote_code`."""
