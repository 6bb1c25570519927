"""Reports as self-contained HTML pages: the page kit, and a folder per kind of report."""
