"""The audit's report: what its document holds, and the page and the model card made from it."""

from unmergeable.auditing.report.check import check
from unmergeable.auditing.report.html import render_html
from unmergeable.auditing.report.markdown import render_markdown
from unmergeable.auditing.report.schema import SCHEMA, Report

__all__ = ["SCHEMA", "Report", "check", "render_html", "render_markdown"]
