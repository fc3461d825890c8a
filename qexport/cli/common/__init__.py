"""What commands share: the program around them, options, output, tables, progress."""
