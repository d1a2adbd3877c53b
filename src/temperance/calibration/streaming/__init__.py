"""Calibration of more rows than memory holds, in batches, on one process or many."""

from temperance.calibration.streaming.every_class import CalibrationSums
from temperance.calibration.streaming.grid import LogGrid
from temperance.calibration.streaming.reports import StreamingReport, TopLabelReport
from temperance.calibration.streaming.top_label import TopLabelSums

__all__ = ["CalibrationSums", "LogGrid", "StreamingReport", "TopLabelReport", "TopLabelSums"]
