"""The audit's report: what its document holds, and the page and the model card made from it."""

from unmergeable.audit.report.check import check
from unmergeable.audit.report.html import render_html
from unmergeable.audit.report.markdown import render_markdown
from unmergeable.audit.report.schema import SCHEMA, Report

__all__ = ["SCHEMA", "Report", "check", "render_html", "render_markdown"]
