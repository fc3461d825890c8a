"""File formats, one file for each family; `registry` lists them."""
