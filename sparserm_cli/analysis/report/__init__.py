"""Write the report, one self-contained HTML page."""
