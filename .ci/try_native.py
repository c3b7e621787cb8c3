"""Shows that an installed package has the native core, and that it works: python .ci/try_native.py."""

from __future__ import annotations

import io

from PIL import Image

from beam_adacompress import jpeg
from beam_adacompress.jpeg import native

native.require("this check")
buffer = io.BytesIO()
Image.radial_gradient("L").convert("RGB").resize((200, 120)).save(buffer, "JPEG", quality=95)
result = jpeg.compress(buffer.getvalue(), "annexk", 35, "fixed-35", jpeg.Settings())
assert result.engine == native.NATIVE, result
assert len(result.data) < len(buffer.getvalue()) / 2, len(result.data)
assert Image.open(io.BytesIO(result.data)).size == (200, 120)
print(f"{native.engine()}: {len(buffer.getvalue())} bytes became {len(result.data)}")
