"""Reports: what a diagnosis says, computed once as a document and rendered as text, HTML, data or figures."""

from headwater.report.annotation import annotated_file as annotated_file
from headwater.report.data import as_data as as_data
from headwater.report.document import Document as Document
from headwater.report.document import document as document
from headwater.report.finding_groups import sorted_findings as sorted_findings
from headwater.report.glyphs import can_show as can_show
from headwater.report.html import render_html as render_html
from headwater.report.places import place as place
from headwater.report.places import shown_file as shown_file
from headwater.report.sarif import as_sarif as as_sarif
from headwater.report.text import TextReport as TextReport
from headwater.report.text import render_text as render_text
