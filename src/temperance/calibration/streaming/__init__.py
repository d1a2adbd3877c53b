"""Calibration of rows that are never held at once: sums that batches and processes add to."""

from temperance.calibration.streaming.every_class import CalibrationSums
from temperance.calibration.streaming.grid import LogGrid
from temperance.calibration.streaming.reports import StreamingReport, TopLabelReport
from temperance.calibration.streaming.top_label import TopLabelSums

__all__ = ["CalibrationSums", "LogGrid", "StreamingReport", "TopLabelReport", "TopLabelSums"]
