"""`python -m beam_adacompress` is the `adacompress` command."""

from beam_adacompress.pipelines.cli import entry_point

entry_point()
