"""Models as one file that takes raw pixels: torch.export, AOTInductor, ONNX; and warm torch.compile.

Every file is opened again in a fresh process and compared with the model before it is kept.
"""

from ._export import DTYPES, export
from ._exported import Exported, load_exported
from ._formats import FORMATS, compiled
from ._pipeline import Pipeline, make_pipeline

__all__ = ["DTYPES", "FORMATS", "Exported", "Pipeline", "compiled", "export", "load_exported", "make_pipeline"]
