"""What can be built: space, supernet, alpha, latency table, derivation, plain student."""
