"""The four transforms in a pipeline that was there before: python examples/compose.py IN OUT BACKEND."""

import io
import json
import sys

import apache_beam as beam
from apache_beam.io import fileio
from PIL import Image

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, EstimateDrift, ScoreWithBackend


class Resize(beam.DoFn):
    """Their own."""

    def process(self, file):
        image = Image.open(io.BytesIO(file.read())).convert("RGB")
        image.thumbnail((640, 640))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield EncodedImage(file.metadata.path, buffer.getvalue())


source, output, backend = sys.argv[1:]
with beam.Pipeline() as pipeline:
    files = pipeline | fileio.MatchFiles(f"{source}/**") | fileio.ReadMatches()
    images = files | beam.ParDo(Resize()).with_output_types(EncodedImage)

    chosen = images | ChooseQuality(agreement=0.97)
    small = chosen.images | CompressJPEG()
    scored = small.images | ScoreWithBackend(backend, sample_rate=0.1, policy="default")
    drift = scored.scores | EstimateDrift(policy="default")

    rows = small.images | beam.Map(lambda row: {"key": row.key, "q": row.choice.quality, "bytes": len(row.compressed)})
    rows = rows | "JSON" >> beam.Map(json.dumps)  # WriteToBigQuery would take them as they were
    rows | beam.io.WriteToText(f"{output}/images", ".json")
    drift | beam.Map(lambda row: json.dumps(row._asdict())) | "Drift" >> beam.io.WriteToText(f"{output}/drift", ".json")
