"""The audit's report: what its document holds, and the page and the model card made from it."""

from unmergeable.auditing.report.check import check
from unmergeable.auditing.report.html import render_html
from unmergeable.auditing.report.markdown import render_markdown
from unmergeable.auditing.report.schema import SCHEMA, Document

__all__ = ["SCHEMA", "Document", "check", "render_html", "render_markdown"]
