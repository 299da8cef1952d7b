"""What people look at: evaluate, compare, report, explain."""
