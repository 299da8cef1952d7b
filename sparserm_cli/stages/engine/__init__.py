"""Run the work of a stage in this process or in Ray actors, and stop on signals."""
