"""Floor 1: KEM registry, KDF labels, combiner, signatures and identities. Nothing here does I/O."""
