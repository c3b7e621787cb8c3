"""Backends: whatever answers "what is in this image?", one file each, behind one small contract."""

from beam_adacompress.backends.contract import Answer as Answer
from beam_adacompress.backends.contract import Backend as Backend
from beam_adacompress.backends.contract import BackendError as BackendError
from beam_adacompress.backends.contract import Labels as Labels
from beam_adacompress.backends.contract import Query as Query
from beam_adacompress.backends.contract import Terms as Terms
from beam_adacompress.backends.registry import BACKENDS as BACKENDS
from beam_adacompress.backends.registry import backend as backend
