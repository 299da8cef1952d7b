"""`python -m sparserm_cli` is `sparserm`."""

from sparserm_cli.cli.main import main

main()
