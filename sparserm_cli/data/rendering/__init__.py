"""Chat templates of other people, rendered by a process that ends itself at its limits."""
