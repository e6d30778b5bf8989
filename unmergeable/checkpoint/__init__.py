"""Model folders on disk: headers, streaming, atomic writes, manifests. Knows no architecture."""
