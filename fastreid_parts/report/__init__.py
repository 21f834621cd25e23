"""A retrieval report as one HTML file that needs nothing else: what it holds, its template and its style."""

from __future__ import annotations

from .page import MEASURES, Report, ReportedModel, ReportedTest, image_uri, render_report, write_report
