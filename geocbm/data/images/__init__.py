"""Reading any photograph: formats of phones and cameras, panoramas, positions in EXIF and XMP, folders."""
