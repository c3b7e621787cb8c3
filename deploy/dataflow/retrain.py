"""The entry point of the flex template `retrain`."""

import sys

from beam_adacompress.pipelines import template

if __name__ == "__main__":
    sys.exit(template.main("retrain"))
