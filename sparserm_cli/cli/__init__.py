"""The command line: one file a group of commands, nothing heavy imported until a command runs."""
