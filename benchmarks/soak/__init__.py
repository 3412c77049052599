"""Long runs that prove what docs/reliability.md promises: faults, overload, and a soak."""
