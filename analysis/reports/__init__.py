"""Reports as self-contained pages: the page kit, and a folder for each kind of report."""
