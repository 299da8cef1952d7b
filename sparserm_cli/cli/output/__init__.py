"""What each command group prints: text for people, the same facts as JSON."""
