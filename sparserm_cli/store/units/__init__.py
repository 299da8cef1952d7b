"""Units of work of a store: plan, records, manifest, integrity checks, the work loop."""
