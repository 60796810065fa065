"""Reports: what a diagnosis says, computed once as a document and rendered as text, HTML or figures."""

from headwater.report.document import Document as Document
from headwater.report.document import document as document
from headwater.report.html import render_html as render_html
from headwater.report.text import render_text as render_text
