"""Where runs live: a folder, or a URI whose files are worked on in a copy on this machine."""
