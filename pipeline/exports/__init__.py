"""What an export is made of: the chosen rows, files that are whole or absent, and one room a layout."""
