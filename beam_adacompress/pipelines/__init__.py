"""The jobs behind the `adacompress` command, one module each, with `run(argv)`."""
