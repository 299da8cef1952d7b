"""The routes of a server: one module per client protocol, each with the shapes it is sent and answers."""
