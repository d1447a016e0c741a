"""Users' objects and files, in and out."""
