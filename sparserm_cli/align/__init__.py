"""Old paths of the adapters for trainers, kept for one release; see `sparserm_cli.alignment.trainers`."""
