"""Who does the work, this process or Ray actors, and how it stops on signals."""
