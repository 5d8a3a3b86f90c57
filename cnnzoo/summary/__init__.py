"""What a module is made of: layers and their shapes, parameters, multiply-accumulates, receptive fields."""

from ._summarize import Count, Layer, Summary, count, layer_summary, summarize

__all__ = ["Count", "Layer", "Summary", "count", "layer_summary", "summarize"]
