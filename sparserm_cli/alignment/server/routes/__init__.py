"""The routes of a server: one module per client protocol, each with its request and answer schemas."""
