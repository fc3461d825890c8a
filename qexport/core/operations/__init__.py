"""One file for each kind of operation: what it computes, exactly, and within which bounds."""
