"""`python -m beam_adacompress` is the `adacompress` command."""

import sys

from beam_adacompress.pipelines.cli import main

sys.exit(main())
